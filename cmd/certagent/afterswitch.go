package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// What the command may take, and when one that failed is run again.
const (
	commandTimeout = time.Minute
	firstPause     = 15 * time.Second
	longestPause   = time.Hour
)

// settledFile holds the ID of the certificate after which the command has
// succeeded. If it is lost, the command is run once more than needed.
const settledFile = "after_switch"

// afterSwitch runs the operator's command until it has succeeded for the
// certificate in use, across restarts: an application that never heard of the
// new certificate would stand there with one that is soon retired. The
// rotation itself does not wait for it and is never undone by it.
//
// The command finds CERTAGENT_CERTIFICATE_ID, and the paths CERTAGENT_CERTIFICATE
// and CERTAGENT_KEY, in its environment, and may be run more than once.
type afterSwitch struct {
	settings settings
	timeout  time.Duration
	log      *slog.Logger
	switched chan struct{}
}

func newAfterSwitch(s settings, log *slog.Logger) *afterSwitch {
	return &afterSwitch{settings: s, timeout: commandTimeout, log: log, switched: make(chan struct{}, 1)}
}

// wake tells of a switch. It does not block.
func (a *afterSwitch) wake() {
	select {
	case a.switched <- struct{}{}:
	default: // somebody told already
	}
}

// follow runs the command after every switch until ctx ends.
func (a *afterSwitch) follow(ctx context.Context) {
	pause := firstPause
	for {
		err := a.settle(ctx)
		if ctx.Err() != nil {
			return
		}
		var again <-chan time.Time
		if err != nil {
			a.log.Error("after switch", "err", err.Error(), "pause", pause.String())
			again = time.After(pause)
			pause = min(2*pause, longestPause)
		} else {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return
		case <-a.switched:
		case <-again:
		}
	}
}

// settle runs the command unless it has succeeded for the certificate in use.
func (a *afterSwitch) settle(ctx context.Context) error {
	if len(a.settings.afterSwitch) == 0 {
		return nil
	}
	now, err := a.settings.inspect()
	if err != nil {
		return err
	}
	directory := a.settings.device.Directory
	settled, err := os.ReadFile(filepath.Join(directory, settledFile))
	if err == nil && string(settled) == now.CertificateID {
		return nil
	}
	if err := a.run(ctx, now); err != nil {
		return fmt.Errorf("run %s: %w", a.settings.afterSwitch[0], err)
	}
	a.log.Info("after switch", "certificate", now.CertificateID)
	return markSettled(directory, now.CertificateID)
}

func (a *afterSwitch) run(ctx context.Context, now standing) error {
	ctx, cancel := context.WithTimeoutCause(ctx, a.timeout, fmt.Errorf("it took longer than %s", a.timeout))
	defer cancel()
	words := a.settings.afterSwitch
	command := exec.CommandContext(ctx, words[0], words[1:]...)
	command.Env = append(os.Environ(),
		"CERTAGENT_CERTIFICATE_ID="+now.CertificateID, "CERTAGENT_CERTIFICATE="+now.Certificate, "CERTAGENT_KEY="+now.Key)
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	// A group of its own, so that a script's children end with it.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = 5 * time.Second
	err := command.Run()
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// markSettled is durable: after a power cut the file is the old one or the new.
func markSettled(directory, certificateID string) error {
	path := filepath.Join(directory, settledFile)
	file, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(certificateID)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	parent, err := os.Open(directory)
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}
