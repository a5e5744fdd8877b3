package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Socket says where the operator's socket is and who may use it.
type Socket struct {
	Path  string
	Group string // whose members may use it; empty: its owner only
}

// probeTime is how long whoever may still answer on a socket is waited for.
const probeTime = 2 * time.Second

// listen makes the socket: 0600 in a directory that, if it has to be made,
// gets mode 0700; with a group 0660, in one of 0750. A socket that nobody
// answers is replaced; one that somebody answers is an error.
func (s Socket) listen(ctx context.Context) (net.Listener, error) {
	gid, err := s.gid()
	if err != nil {
		return nil, err
	}
	if err := s.makeDirectory(gid); err != nil {
		return nil, err
	}
	if err := s.clear(ctx); err != nil {
		return nil, err
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", s.Path)
	if err != nil {
		return nil, fmt.Errorf("control.socket: %w", err)
	}
	// A fresh socket lets nobody else in: to connect takes the right to
	// write, which no sensible umask leaves to others, in a directory that
	// others cannot enter.
	if err := s.permit(gid); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// gid returns the number of the group, or -1 without one.
func (s Socket) gid() (int, error) {
	if s.Group == "" {
		return -1, nil
	}
	group, err := user.LookupGroup(s.Group)
	if err != nil {
		return 0, fmt.Errorf("control.group: %w", err)
	}
	return strconv.Atoi(group.Gid)
}

func (s Socket) makeDirectory(gid int) error {
	dir := filepath.Dir(s.Path)
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.newDirectory(dir, gid)
	case err != nil:
		return fmt.Errorf("control.socket: %w", err)
	case info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0:
		return fmt.Errorf("control.socket: anybody may write to %s: put the socket in a directory of its own", dir)
	case gid >= 0 && info.Mode().Perm()&0o011 == 0:
		return fmt.Errorf("control.group: nobody but its owner can enter %s (mode %#o): put control.socket in a directory that group %s can enter",
			dir, info.Mode().Perm(), s.Group)
	}
	return nil
}

func (s Socket) newDirectory(dir string, gid int) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("control.socket: %w", err)
	}
	if gid < 0 {
		return nil
	}
	if err := errors.Join(os.Chown(dir, -1, gid), os.Chmod(dir, 0o750)); err != nil {
		return fmt.Errorf("control.group: %w", err)
	}
	return nil
}

// clear removes a socket that a daemon has left behind.
func (s Socket) clear(ctx context.Context) error {
	info, err := os.Lstat(s.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("control.socket: %w", err)
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("control.socket: %s is there and is not a socket: remove it, or name another path", s.Path)
	}
	dialer := net.Dialer{Timeout: probeTime}
	conn, err := dialer.DialContext(ctx, "unix", s.Path)
	if err == nil {
		return errors.Join(fmt.Errorf("control.socket: another certvendor answers on %s: stop that one first", s.Path), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control.socket: is anybody there? %w", err)
	}
	if err := os.Remove(s.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control.socket: %w", err)
	}
	return nil
}

func (s Socket) permit(gid int) error {
	mode := fs.FileMode(0o600)
	if gid >= 0 {
		mode = 0o660
		if err := os.Chown(s.Path, -1, gid); err != nil {
			return fmt.Errorf("control.group: %w", err)
		}
	}
	if err := os.Chmod(s.Path, mode); err != nil {
		return fmt.Errorf("control.socket: %w", err)
	}
	return nil
}

// peerKey is where a connection's context keeps who is at its other end.
type peerKey struct{}

func withPeer(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, peerOf(conn))
}

// peer says who asks, as the kernel knows it, for the audit.
func peer(ctx context.Context) string {
	who, _ := ctx.Value(peerKey{}).(string)
	if who == "" {
		return "unknown"
	}
	return who
}
