package kit

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"gantry/client/build"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// readJob reads what is to be done, and from then on watches whether somebody
// still waits for it: the pipe is held open until nobody does. A terminal's
// interrupt goes to the caller as well, and is the caller's to answer.
func readJob(in *os.File, cancel context.CancelCauseFunc) (job build.Job, gone <-chan struct{}, err error) {
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP)
	over := make(chan struct{})
	r := bufio.NewReader(in)
	line, err := r.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &job)
	}
	if err != nil {
		close(over)
		return job, over, fmt.Errorf("read the build: %w", err)
	}
	go func() {
		defer close(over)
		_, _ = r.ReadByte() // there is never another
		cancel(errGone)
	}()
	return job, over, nil
}

// pipe is an inherited descriptor as a file whose closing ends its reads.
func pipe(fd int, name string) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), name), nil
}

func writeAnswer(a build.Answer) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	out, err := pipe(build.AnswerFD, "answer")
	if err != nil {
		return err
	}
	if _, err := out.Write(text); err != nil {
		return err
	}
	return out.Close()
}

// quieten has the libraries complain in gantry's voice.
func quieten(w io.Writer) {
	logrus.SetOutput(w)
	logrus.SetLevel(logrus.ErrorLevel)
	logrus.SetFormatter(plain{})
}

type plain struct{}

func (plain) Format(e *logrus.Entry) ([]byte, error) {
	return fmt.Appendf(nil, "gantry: %s\n", e.Message), nil
}
