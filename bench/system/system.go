// Package system runs certvendor and its peers, each as its users run it, with
// one CA, and asks each for certificates.
//
// Read certvendor.go first; stepca.go, cfssl.go and pem.go are the peers, and
// ceiling.go is what the machine's cryptography alone can do.
package system

import (
	"time"

	"github.com/certvendor/certvendor/bench/load"
)

// System is something that makes certificates.
type System interface {
	// Name is its name in tables.
	Name() string
	// PIDs are the processes that work for it.
	PIDs() []int
	// Prepare makes everything for a loop of so many workers and so long, such
	// as connections and requests, so that what run does is asking alone. check
	// fails if an answer was not the certificate that was asked for.
	Prepare(workers int, lasts time.Duration) (run func() (load.Result, error), check func() error, err error)
	// Close ends its processes.
	Close() error
}

// most is how many requests a second are prepared for a system's loop; it ends
// early, and says so by its time, where they are used up.
func most(perSecond float64, lasts time.Duration) int {
	return int(perSecond*lasts.Seconds()) + 1
}
