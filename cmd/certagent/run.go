package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/certvendor/certvendor/device"
)

// follow carries out rotation jobs until ctx ends, which is no error.
func follow(ctx context.Context, s settings, log *slog.Logger) error {
	after := newAfterSwitch(s, log)
	pulse := newPulse()
	s.device.Event = func(e device.Event) {
		logEvent(ctx, log, e)
		pulse.note(e)
		if e.Kind == device.Switched || e.Kind == device.GivenUp {
			after.wake()
		}
	}
	agent, err := device.New(s.device)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	beside.Go(func() { after.follow(ctx) })
	beside.Go(func() { pulse.beat(ctx, log) })
	// Ready does not wait for the broker, which may be away for days.
	notify(log, daemon.SdNotifyReady)
	err = agent.Run(ctx)
	notify(log, daemon.SdNotifyStopping)
	if errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// once performs one rotation, or finishes one that was left unfinished.
func once(ctx context.Context, s settings, log *slog.Logger) error {
	s.device.Event = func(e device.Event) { logEvent(ctx, log, e) }
	agent, err := device.New(s.device)
	if err != nil {
		return err
	}
	rotating := agent.Rotate(ctx)
	// Also after an error: the certificate may have changed nevertheless.
	if err := newAfterSwitch(s, log).settle(ctx); err != nil {
		log.Error("after switch", "err", err.Error())
	}
	if rotating != nil {
		return fmt.Errorf("rotate device %s: %w", s.device.Device, rotating)
	}
	return nil
}

// enrol puts the device's first certificate and key in place.
func (p *program) enrol(s settings) error {
	certificate, err := readFile(p.certificate)
	if err != nil {
		return err
	}
	if err := p.provision(s, certificate); err != nil {
		return err
	}
	first, err := s.inspect()
	if err != nil {
		return err
	}
	// Nothing was switched, so there is nothing to be run after it.
	if err := markSettled(s.device.Directory, first.CertificateID); err != nil {
		return err
	}
	return p.status(s)
}

func (p *program) provision(s settings, certificate []byte) error {
	switch {
	case s.keyFile != "" && p.key != "":
		return fmt.Errorf("%w: --key is not for a device with key_file", errUsage)
	case s.keyFile == "" && p.key == "":
		return fmt.Errorf("%w: enrol needs --key", errUsage)
	}
	var err error
	if s.keyFile != "" {
		err = device.ProvisionFixed(s.device.Directory, certificate, s.device.FixedKey)
	} else {
		var key []byte
		if key, err = readFile(p.key); err != nil {
			return err
		}
		err = device.Provision(s.device.Directory, certificate, key)
	}
	if err != nil {
		return fmt.Errorf("enrol device %s: %w", s.device.Device, err)
	}
	return nil
}

func logEvent(ctx context.Context, log *slog.Logger, e device.Event) {
	level := slog.LevelInfo
	switch {
	case e.Kind == device.GivenUp:
		level = slog.LevelError
	case e.Err != nil:
		level = slog.LevelWarn
	}
	var fields []slog.Attr
	for _, f := range []struct{ key, value string }{
		{"action", string(e.Action)}, {"job", e.Job}, {"certificate", e.CertificateID},
	} {
		if f.value != "" {
			fields = append(fields, slog.String(f.key, f.value))
		}
	}
	if e.Pause > 0 {
		fields = append(fields, slog.String("pause", e.Pause.String()))
	}
	if e.Err != nil {
		fields = append(fields, slog.String("err", e.Err.Error()))
	}
	log.LogAttrs(ctx, level, string(e.Kind), fields...)
}
