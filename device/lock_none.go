//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package device

import "os"

// Without flock it is for whoever installs the program that only one runs.
func lockExclusively(*os.File) error { return nil }

func unlock(*os.File) {}
