package image

import "github.com/opencontainers/go-digest"

// Step is where a layer is on its way.
type Step int

// Steps of a pull, and of a push.
const (
	Waiting     Step = iota // for its turn, or for another pull that fetches it
	Downloading             // and being unpacked
	Downloaded              // all of it, and checked
	Extracting              // what is left of unpacking, and putting it in its place
	Complete                // it is here
	Exists                  // it was here, or there, before
	Pushing
	Sent
	Mounted // the registry had it in another repository
)

// Progress is how a layer of a pull or a push fares.
type Progress struct {
	Layer digest.Digest // of the blob
	Step  Step
	// Current of Total bytes, while Downloading and Pushing.
	Current, Total int64
}
