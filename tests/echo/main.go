// Command echo is what the network scenarios run inside containers: small
// servers that say who they are and who asks.
//
//	echo http:80 udp:80 dns:53
//
// http and udp answer with the host's name, the caller's address and, for udp,
// what was sent; dns answers every question with 203.0.113.53.
//
//	echo get web:80
//
// asks such a server, and prints its answer.
package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "get" {
		answer, err := get(os.Args[2])
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(answer)
		return
	}
	for _, arg := range os.Args[1:] {
		kind, port, _ := strings.Cut(arg, ":")
		serve, ok := map[string]func(string){"http": serveHTTP, "udp": serveUDP, "dns": serveDNS}[kind]
		if !ok {
			log.Fatalf("echo: unknown server %q", arg)
		}
		serve(":" + port)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}

func get(addr string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, 2*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
	all, err := io.ReadAll(c)
	_, body, _ := strings.Cut(string(all), "\r\n\r\n")
	return strings.TrimSpace(body), err
}

func host(a net.Addr) string {
	h, _, _ := net.SplitHostPort(a.String())
	return strings.TrimPrefix(h, "::ffff:")
}

func serveHTTP(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		log.Fatal(err)
	}
	name, _ := os.Hostname()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				log.Fatal(err)
			}
			go func() {
				defer c.Close()
				for in := bufio.NewScanner(c); in.Scan() && in.Text() != ""; {
				}
				fmt.Fprintf(c, "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n%s %s\n", name, host(c.RemoteAddr()))
			}()
		}
	}()
}

func packets(addr string, answer func(from net.Addr, q []byte) []byte) {
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				log.Fatal(err)
			}
			_, _ = c.WriteTo(answer(from, buf[:n]), from)
		}
	}()
}

func serveUDP(addr string) {
	name, _ := os.Hostname()
	packets(addr, func(from net.Addr, q []byte) []byte {
		return fmt.Appendf(nil, "%s %s %s", name, host(from), q)
	})
}

func serveDNS(addr string) {
	packets(addr, func(_ net.Addr, q []byte) []byte {
		end := 12 // behind the question's name, type and class (RFC 1035, 4.1)
		for end < len(q) && q[end] != 0 {
			end += int(q[end]) + 1
		}
		end += 5
		if end > len(q) {
			return nil
		}
		a := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:end]...)
		if q[end-4] == 0 && q[end-3] == 1 { // a question for an address
			a[7] = 1
			a = append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 53)
		}
		return a
	})
}
