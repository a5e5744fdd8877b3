package app

import "os"

// headroomSize is how much garbage may lie before the collector looks, at the
// least. It would look whenever as much was made as is in use: with few
// connections that is a few MiB, and many times a second.
const headroomSize = 64 << 20

// headroom returns memory that is counted as in use and never touched, so that
// none is taken from the system for it: docs/decisions/0028. It returns nil
// where a person has set the collector another way. It works as long as it is
// kept.
func headroom() []byte {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return nil
	}
	return make([]byte, headroomSize)
}
