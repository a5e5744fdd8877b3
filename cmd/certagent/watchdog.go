package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/certvendor/certvendor/device"
)

// patience is how long the agent may say nothing while it is at work. Its
// longest silent step is the pause before it connects again, at most five
// minutes unless configured otherwise, with the attempt that follows.
const patience = 15 * time.Minute

// pulse decides whether the agent is alive: while it waits for a job it may be
// silent for ever, since MQTT's keep-alive watches the connection; while it
// does anything else, something must happen. Safe for concurrent use.
type pulse struct {
	now func() time.Time

	mu  sync.Mutex
	due time.Time // zero while silence is right
}

func newPulse() *pulse {
	return &pulse{now: time.Now, due: time.Now().Add(patience)}
}

func (p *pulse) note(e device.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.Kind {
	case device.Connected, device.JobIgnored, device.JobReported:
		p.due = time.Time{}
	case device.Waiting:
		// It may wait for the answer to "is there a job", and then say no more.
		if !p.due.IsZero() {
			p.due = p.now().Add(e.Pause + patience)
		}
	default:
		p.due = p.now().Add(patience)
	}
}

func (p *pulse) alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.due.IsZero() || p.now().Before(p.due)
}

// beat feeds the service manager's watchdog, if it has one, until ctx ends.
func (p *pulse) beat(ctx context.Context, log *slog.Logger) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("watchdog", "err", err.Error())
	}
	if err != nil || limit <= 0 {
		return
	}
	ticker := time.NewTicker(max(limit/3, time.Millisecond))
	defer ticker.Stop()
	for {
		if p.alive() {
			notify(log, daemon.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// notify tells the service manager, if there is one.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("notify the service manager", "err", err.Error())
	}
}
