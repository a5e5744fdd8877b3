package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// notifySocket is where the program tells how it is, as in sd_notify(3).
const notifySocket = "/run/systemd/notify"

// play runs the program until it ends by itself or stop tells it to.
func (p *place) play(stop <-chan os.Signal) error {
	socket, err := p.listen()
	if err != nil {
		return err
	}
	printed := make(chan struct{})
	go func() { defer close(printed); relay(socket) }()
	defer func() { _ = socket.Close(); <-printed }()

	program, err := p.start()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- program.Wait() }()
	select {
	case err := <-ended:
		return errors.Join(errors.New("it has ended by itself"), err)
	case <-stop:
	}
	if err := program.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(p.service.stopLimit):
		return errors.Join(fmt.Errorf("it has not ended %s after SIGTERM", p.service.stopLimit), program.Process.Kill(), <-ended)
	}
}

func (p *place) listen() (*net.UnixConn, error) {
	path := filepath.Join(p.root, notifySocket)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	return socket, os.Chmod(path, 0o777)
}

// relay prints what is notified, until the socket is closed.
func relay(socket *net.UnixConn) {
	message := make([]byte, 4096)
	for {
		n, err := socket.Read(message)
		if err != nil {
			return
		}
		fmt.Println(strings.TrimSpace(string(message[:n])))
	}
}

// start starts the program with the unit's limits. Some of them are the calling
// thread's, from which the program has them, so the thread is given up after it.
func (p *place) start() (*exec.Cmd, error) {
	s := p.service
	program := &exec.Cmd{
		Path: s.command[0], Args: s.command, Dir: "/", Stdout: os.Stdout, Stderr: os.Stderr,
		Env: append(p.environment, "NOTIFY_SOCKET="+notifySocket),
		SysProcAttr: &syscall.SysProcAttr{
			Chroot: p.root, Credential: &syscall.Credential{Uid: uint32(p.uid), Gid: uint32(p.gid)},
			Setpgid: true, Pdeathsig: syscall.SIGKILL,
		},
	}
	if s.watchdog > 0 {
		program.Env = append(program.Env, fmt.Sprintf("WATCHDOG_USEC=%d", s.watchdog.Microseconds()))
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := s.restrain()
		if err == nil {
			err = program.Start()
		}
		started <- err
		select {} // the program dies with the thread that started it
	}()
	return program, <-started
}

// restrain takes from the calling thread, and so from what it starts, what the
// unit takes from its program.
func (s service) restrain() error {
	syscall.Umask(s.umask)
	for name, kind := range map[string]int{"LimitNOFILE": unix.RLIMIT_NOFILE, "LimitCORE": unix.RLIMIT_CORE} {
		if n, ok := s.limits[name]; ok {
			if err := unix.Setrlimit(kind, &unix.Rlimit{Cur: n, Max: n}); err != nil {
				fmt.Fprintf(os.Stderr, "unit: %s=%d: %v: left as it is\n", name, n, err)
			}
		}
	}
	if s.noCapabilities {
		for c := range uintptr(unix.CAP_LAST_CAP + 1) {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("drop capability %d: %w", c, err)
			}
		}
	}
	if s.noNewPrivileges {
		return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	return nil
}
