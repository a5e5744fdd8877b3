package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// process is a server that runs.
type process struct {
	name string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when it has ended
}

// start starts a server, whose output goes to a file in dir.
func start(dir, name string, command string, args ...string) (*process, error) {
	cmd := exec.Command(command, args...)
	cmd.Dir = dir
	return run(dir, name, cmd)
}

func run(dir, name string, cmd *exec.Cmd) (*process, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
	}
	p := &process{name: name, cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // it is ended by a signal
		close(p.done)
	}()
	return p, nil
}

// listens waits until the server accepts connections.
func (p *process) listens(network, address string) error {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		conn, err := net.DialTimeout(network, address, time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended; see %s", p.name, p.log.Name())
		default:
		}
	}
	return fmt.Errorf("%s does not listen on %s; see %s", p.name, address, p.log.Name())
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the server as a power cut would.
func (p *process) kill() error { return p.end(syscall.SIGKILL) }

// Close asks the server to end, and insists after a while.
func (p *process) Close() error { return p.end(syscall.SIGTERM) }

func (p *process) end(with os.Signal) error {
	if p == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(with) // it may have ended
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	if err := p.log.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// freeAddress returns an address on which nobody listens.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// each calls do for 0 to n-1 on all CPUs, and returns the first error.
func each(n int, do func(i int) error) error { return eachOf(runtime.NumCPU(), n, do) }

// eachOf is each with so many at a time.
func eachOf(workers, n int, do func(i int) error) error {
	var next atomic.Int64
	errs := make([]error, workers)
	var working sync.WaitGroup
	for w := range workers {
		working.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if errs[w] = do(i); errs[w] != nil {
					return
				}
			}
		})
	}
	working.Wait()
	return errors.Join(errs...)
}

// tool runs a command to its end, and returns what it printed.
func tool(ctx context.Context, dir, command string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		err = fmt.Errorf("%w: %s", err, failed.Stderr)
	}
	if err != nil {
		return out, fmt.Errorf("%s %s: %w", filepath.Base(command), args[0], err)
	}
	return out, nil
}

// closeAll closes what is open.
func closeAll[C io.Closer](all []C) {
	for _, c := range all {
		_ = c.Close() // nothing is to be learnt from how a client hangs up
	}
}
