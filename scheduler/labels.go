package scheduler

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	"gantry/compose"
)

// Labels that Docker Compose puts on what it makes, so that other tools see
// gantry's projects as Compose projects.
const (
	LabelProject     = "com.docker.compose.project"
	LabelService     = "com.docker.compose.service"
	LabelNumber      = "com.docker.compose.container-number" // from 1
	LabelHash        = "com.docker.compose.config-hash"
	LabelOneOff      = "com.docker.compose.oneoff" // "True": made by `run`
	LabelImage       = "com.docker.compose.image"  // id of the image
	LabelDependsOn   = "com.docker.compose.depends_on"
	LabelWorkingDir  = "com.docker.compose.project.working_dir"
	LabelConfigFiles = "com.docker.compose.project.config_files"
	LabelVersion     = "com.docker.compose.version"
	LabelNetwork     = "com.docker.compose.network" // key in the project
	LabelVolume      = "com.docker.compose.volume"  // key in the project
)

// Labels of gantry's own.
const (
	// LabelGeneration is [Want].Generation when the container was made.
	LabelGeneration = "gantry.generation"
	// LabelUses are hashes of the definitions of the networks and volumes the
	// container uses: "network:back=0123…,volume:data=4567…".
	LabelUses = "gantry.uses"
	// LabelParts are hashes of what the container was made from, part by part
	// (see compose.Parts), so that one can tell what has changed and whether
	// that needs another container: "container=0123…,network:back=4567…,ports=89ab…".
	// Containers of an older gantry do not have it.
	LabelParts = "gantry.parts"
	// LabelRun is when the run of a job that the container is was due.
	LabelRun = "gantry.run"
)

// version is what LabelVersion says: the Docker Compose whose labels these are.
// It is a number because docker-compose 1 compares it with others of its own,
// and above 1.21 because it would rename what is older.
const version = "2.0.0"

// ContainerLabels are the labels of a replica but for those that say what it
// was made from (hash, image, generation, uses): what a one-off container of
// the service carries too.
func ContainerLabels(p *compose.Project, s compose.Service, number int, oneOff bool) map[string]string {
	l := make(map[string]string, len(s.Labels)+12)
	maps.Copy(l, s.Labels)
	l[LabelProject] = p.Name
	l[LabelService] = s.Name
	l[LabelNumber] = strconv.Itoa(number)
	l[LabelOneOff] = "False"
	if oneOff {
		l[LabelOneOff] = "True"
	}
	l[LabelVersion] = version
	l[LabelWorkingDir] = p.WorkingDir
	l[LabelConfigFiles] = strings.Join(p.ComposeFiles, ",")
	l[LabelDependsOn] = dependsOnLabel(s.DependsOn)
	return l
}

// dependsOnLabel is "db:service_healthy:false,…": service, condition, restart.
func dependsOnLabel(d compose.DependsOn) string {
	var list []string
	for _, name := range sortedKeys(d) {
		list = append(list, fmt.Sprintf("%s:%s:%t", name, d[name].Condition, d[name].Restart))
	}
	return strings.Join(list, ",")
}

// dependencies reads the services off LabelDependsOn. Old writers put the name
// alone.
func dependencies(label string) []string {
	if label == "" {
		return nil
	}
	var names []string
	for item := range strings.SplitSeq(label, ",") {
		name, _, _ := strings.Cut(item, ":")
		names = append(names, name)
	}
	return names
}

// objectLabels are those of a network or volume: the user's, and whose it is.
func objectLabels(p *compose.Project, user map[string]string, key, label, hash string) map[string]string {
	l := make(map[string]string, len(user)+4)
	maps.Copy(l, user)
	l[LabelProject] = p.Name
	l[label] = key
	l[LabelVersion] = version
	l[LabelHash] = hash
	return l
}

// VolumeHash is the hash of the definition a volume was made from, as its
// labels say; "" if they do not, or if somebody else wrote them: what Docker
// Compose hashes cannot be compared.
func VolumeHash(labels map[string]string) string {
	if labels[LabelVersion] != version {
		return ""
	}
	return labels[LabelHash]
}

// ContainerName is the name of a replica.
func ContainerName(p *compose.Project, s compose.Service, number int) string {
	return containerName(p, &s, number)
}

func containerName(p *compose.Project, s *compose.Service, number int) string {
	if s.ContainerName != "" {
		return s.ContainerName
	}
	return p.Name + "-" + s.Name + "-" + strconv.Itoa(number)
}

// NetworkName is the name on the machine of a network of the project, given
// its key there.
func NetworkName(p *compose.Project, key string) string {
	if n := p.Networks[key].Name; n != "" {
		return n
	}
	if p.Networks[key].External {
		return key
	}
	return p.Name + "_" + key
}

// VolumeName is the name on the machine of a volume of the project, given its
// key there.
func VolumeName(p *compose.Project, key string) string {
	if v := p.Volumes[key].Name; v != "" {
		return v
	}
	if p.Volumes[key].External {
		return key
	}
	return p.Name + "_" + key
}
