package daemon

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// readyFD names the environment variable with the descriptor that the client
// who started this daemon listens on: "ready", or one line saying why not.
const readyFD = "GANTRY_READY_FD"

// starter is whoever started this daemon and wants to know when it serves: a
// client, by a pipe, or systemd, by its socket (sd_notify(3)).
type starter struct {
	log  *slog.Logger
	once sync.Once
	pipe *os.File
	unit string
}

// Starter takes the starter's addresses out of the environment, so that
// nothing this process starts inherits them.
func Starter(log *slog.Logger) *starter {
	s := &starter{log: log, unit: os.Getenv("NOTIFY_SOCKET")}
	if fd, err := strconv.Atoi(os.Getenv(readyFD)); err == nil && fd > 2 {
		syscall.CloseOnExec(fd)
		s.pipe = os.NewFile(uintptr(fd), "ready")
	}
	os.Unsetenv(readyFD)
	os.Unsetenv("NOTIFY_SOCKET")
	return s
}

// Ready says that requests are answered.
func (s *starter) Ready() { s.say("ready", "READY=1") }

// Failed says why they never will be; after Ready it does nothing.
func (s *starter) Failed(err error) {
	if err != nil {
		line := strings.ReplaceAll(err.Error(), "\n", "; ")
		s.say(line, "STATUS="+line)
	}
}

func (s *starter) say(line, notice string) {
	s.once.Do(func() {
		if s.pipe != nil {
			fmt.Fprintln(s.pipe, line)
			s.pipe.Close()
		}
		if s.unit == "" {
			return
		}
		name := s.unit
		if strings.HasPrefix(name, "@") {
			name = "\x00" + name[1:]
		}
		c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
		if err == nil {
			_, err = c.Write([]byte(notice))
			c.Close()
		}
		if err != nil { // systemd will end what it takes for not started
			s.log.Error("systemd is not told of the start", "notice", notice, "error", err)
		}
	})
}
