// Command web is an HTTP server such as people deploy: it keeps connections
// alive, takes a little while for an answer, and when it is told to stop it
// finishes what it has begun.
//
//	web [-after 300ms] [-takes 5ms] [-version one] [-abrupt] :80
//
// answers with its version and its host's name.
//
//	web get 127.0.0.1 80
//
// is its health check, and a client: it prints the addresses of the name and
// what twenty connections are answered.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	after := flag.Duration("after", 0, "how long it takes to begin to listen")
	takes := flag.Duration("takes", 5*time.Millisecond, "how long an answer takes")
	abrupt := flag.Bool("abrupt", false, "drop everything when told to stop")
	version := flag.String("version", "one", "what it calls itself")
	flag.Parse()
	if flag.Arg(0) == "get" {
		if err := get(flag.Arg(1), flag.Arg(2)); err != nil {
			log.Fatal(err)
		}
		return
	}
	host, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	time.Sleep(*after)
	s := &http.Server{Addr: flag.Arg(0), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(*takes)
		fmt.Fprintln(w, *version, host)
	})}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	if *abrupt {
		cancel()
		stop = context.Background()
	}
	done := make(chan error, 1)
	go func() {
		<-stop.Done()
		done <- s.Shutdown(context.Background())
	}()
	if err := s.ListenAndServe(); err != http.ErrServerClosed { //nolint:errorlint // returned as it is
		log.Fatal(err)
	}
	if err := <-done; err != nil {
		log.Fatal(err)
	}
}

func get(host, port string) error {
	addrs, err := net.LookupHost(host)
	if err != nil {
		return err
	}
	fmt.Println(strings.Join(addrs, ","))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Second}
	for range 20 {
		r, err := client.Get("http://" + net.JoinHostPort(host, port))
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, r.Body)
		r.Body.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
