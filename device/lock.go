package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrInUse is returned while another Agent, of this process or another one, is
// at work in the same directory.
var ErrInUse = errors.New("the directory is in use by another agent")

// lockFile is empty and stays; what counts is who holds its lock.
const lockFile = "lock"

// lock gives the caller the directory to itself until release is called or the
// process ends, however it ends. ErrInUse if somebody has it. It needs nothing
// written where the file is there already: also on a full disk, or one that
// became read-only, a device must connect.
func lock(directory string) (release func(), err error) {
	file, err := os.OpenFile(filepath.Join(directory, lockFile), os.O_RDONLY|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotProvisioned
	}
	if err != nil {
		return nil, err
	}
	if err := lockExclusively(file); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", directory, err), file.Close())
	}
	return func() {
		unlock(file)
		_ = file.Close() // nothing was written
	}, nil
}
