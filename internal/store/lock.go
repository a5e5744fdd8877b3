package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Lock is the exclusive right to a data directory. The kernel gives it back
// when the process ends, however it ends.
type Lock struct{ file *os.File }

// LockFile is the lock's name in its data directory.
const LockFile = "lock"

// TakeLock makes the data directory if it is not there, with mode 0700, and
// takes its lock. If another process has it, the error names that process, and
// the key of the configuration that names the directory.
func TakeLock(data, key string, now time.Time) (*Lock, error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	path := filepath.Join(data, LockFile)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path)
		err = fmt.Errorf("data directory %s is in use by certvendor %s: stop that one first, or give this one another %s",
			data, strings.TrimSpace(string(holder)), key)
		return nil, errors.Join(err, file.Close())
	}
	who := fmt.Sprintf("with pid %d, started %s\n", os.Getpid(), now.UTC().Format(time.RFC3339))
	if err := errors.Join(file.Truncate(0), writeAt(file, who)); err != nil {
		return nil, errors.Join(fmt.Errorf("data directory: write %s: %w", path, err), file.Close())
	}
	return &Lock{file}, nil
}

// Release gives the data directory back. The file stays.
func (l *Lock) Release() error { return l.file.Close() }

func writeAt(file *os.File, text string) error {
	_, err := file.WriteAt([]byte(text), 0)
	return err
}
