package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/containerd/errdefs"
)

// Job is what the builder's program is told to do.
type Job struct {
	Host     string // the daemon's address
	Progress string // auto, tty, plain, rawjson or quiet
	Requests []Request
}

// Answer is what it says when it has ended.
type Answer struct {
	Results []Result `json:",omitempty"`
	// Error is one line, Class its class.
	Error string `json:",omitempty"`
	Class string `json:",omitempty"`
}

// Verb is the argument that makes gantryd's program the builder. It finds the
// job on the descriptor JobFD, which stays open for as long as somebody waits
// for the builds, and writes its answer to AnswerFD.
const (
	Verb     = "build"
	JobFD    = 3
	AnswerFD = 4
)

// Streams are those of the caller. Out gets what outputs write to standard
// output, Err progress and complaints.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// patience is how long a builder that was told to stop may take.
const patience = 3 * time.Second

// Run executes program, gantryd's, as the builder and waits for its answer. When
// ctx ends, or this process does, the builds are broken off.
func Run(ctx context.Context, program string, job Job, s Streams) ([]Result, error) {
	if _, err := Order(job.Requests); err != nil {
		return nil, err
	}
	text, err := json.Marshal(job)
	if err != nil {
		return nil, fmt.Errorf("encode the build: %w", err)
	}
	jobEnd, toBuilder, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer jobEnd.Close()
	defer toBuilder.Close()
	fromBuilder, answerEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer fromBuilder.Close()
	defer answerEnd.Close()

	cmd := exec.CommandContext(ctx, program, Verb)
	cmd.Stdout, cmd.Stderr = s.Out, s.Err
	if reads(job.Requests) {
		cmd.Stdin = s.In
	}
	cmd.ExtraFiles = []*os.File{jobEnd, answerEnd}
	// Told by the end of its job, it takes its leave of the daemon.
	cmd.Cancel = toBuilder.Close
	cmd.WaitDelay = patience
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the builder: %w", err)
	}
	jobEnd.Close()
	answerEnd.Close()
	sent := make(chan error, 1)
	go func() {
		// As one line, since its end says something else.
		_, err := toBuilder.Write(append(text, '\n'))
		sent <- err
	}()
	var answer Answer
	err = json.NewDecoder(fromBuilder).Decode(&answer)
	toBuilder.Close() // nobody waits for more
	ended := cmd.Wait()
	<-sent // it is over, whatever became of it: nobody reads any more
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil && ended != nil:
		return nil, fmt.Errorf("the builder %s died: %w", program, ended)
	case err != nil:
		return nil, fmt.Errorf("the builder %s ended without a word: %w", program, err)
	case answer.Error != "":
		return answer.Results, &failure{answer}
	}
	return answer.Results, nil
}

// reads says whether a request wants standard input.
func reads(requests []Request) bool {
	for _, r := range requests {
		if r.Context == Stdin || r.Dockerfile == Stdin {
			return true
		}
	}
	return false
}

// failure is the error of an answer.
type failure struct{ a Answer }

func (f *failure) Error() string { return f.a.Error }

var classes = map[string]error{
	"not-found": errdefs.ErrNotFound, "invalid-argument": errdefs.ErrInvalidArgument,
	"not-implemented": errdefs.ErrNotImplemented, "unavailable": errdefs.ErrUnavailable,
	"permission-denied": errdefs.ErrPermissionDenied, "unauthenticated": errdefs.ErrUnauthenticated,
}

// Unwrap gives the class.
func (f *failure) Unwrap() error {
	if c := classes[f.a.Class]; c != nil {
		return c
	}
	return errdefs.ErrUnknown
}

// Failed makes the answer of an error.
func Failed(err error) Answer {
	a := Answer{Error: err.Error()}
	for name, class := range classes {
		if errors.Is(err, class) {
			a.Class = name
		}
	}
	return a
}
