// Command certvendor rotates the certificates of IoT devices. It is the daemon
// (serve) and the operator's way to it (every other verb).
//
// Read root.go for what all verbs share; there is one file for each group of
// verbs.
package main

import (
	"context"
	"os"
	_ "time/tzdata" // devices have time zones, and a small machine may have none
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:]))
}
