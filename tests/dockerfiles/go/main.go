// Command clock answers with its version, its user and whether there is a
// shell beside it, which there should not be.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
)

var version = "not set"

func main() {
	listen := flag.String("listen", "", "address")
	flag.Parse()
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		_, err := os.Stat("/bin/sh")
		fmt.Fprintf(w, "clock %s, user %d, shell %t\n", version, os.Getuid(), err == nil)
	})
	log.Fatal(http.ListenAndServe(*listen, nil))
}
