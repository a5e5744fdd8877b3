//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package device

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// A process that is being started has a copy of every descriptor until it runs
// its program: that must not keep the lock for longer than its holder does.
func TestLockIsGivenBackBesideACopy(t *testing.T) {
	dir := t.TempDir()
	release, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	copied := copyOf(t, filepath.Join(dir, lockFile))
	defer syscall.Close(copied)
	if _, err := lock(dir); !errors.Is(err, ErrInUse) {
		t.Fatalf("locked twice: %v", err)
	}
	release()
	again, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

// copyOf copies the open descriptor of a file.
func copyOf(t *testing.T, path string) int {
	t.Helper()
	const all = "/proc/self/fd"
	open, err := os.ReadDir(all)
	if err != nil {
		t.Skipf("no list of open descriptors: %v", err)
	}
	for _, each := range open {
		if target, _ := os.Readlink(filepath.Join(all, each.Name())); target == path {
			fd, err := strconv.Atoi(each.Name())
			if err != nil {
				t.Fatal(err)
			}
			copied, err := syscall.Dup(fd)
			if err != nil {
				t.Fatal(err)
			}
			return copied
		}
	}
	t.Fatalf("%s is not open", path)
	return 0
}
