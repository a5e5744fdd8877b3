package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/certvendor/certvendor/device"
)

// settings is the configuration, ready for use.
type settings struct {
	device      device.Config
	keyFile     string // of the fixed key; empty where there is none
	afterSwitch []string
}

// settings names the key to blame where it returns an error.
func (f file) settings(base string) (s settings, key string, err error) {
	for _, required := range []struct{ key, value string }{
		{"device", f.Device}, {"broker", f.Broker}, {"ca", f.CA}, {"directory", f.Directory},
	} {
		if required.value == "" {
			return s, required.key, errors.New("is required")
		}
	}
	s.device = device.Config{
		Device: f.Device, Broker: f.Broker, Directory: absolute(base, f.Directory), Flow: f.Flow,
		Proof: f.Proof, NamePrevious: f.NamePrevious, TakeOver: f.TakeOver, ALPN: f.ALPN,
	}
	for _, part := range []struct {
		key  string
		read func(*settings, string) error
	}{
		{"ca", f.readRoots}, {"package_ca", f.readPackageRoots}, {"keepalive", f.readKeepAlive},
		{"topics", f.readTopics}, {"after_switch", f.readCommand}, {"renew_at", f.readRenewal},
		{"key", f.checkKey}, {"key_file", f.readKey},
	} {
		if err := part.read(&s, base); err != nil {
			return s, part.key, err
		}
	}
	key, err = refused(s.device)
	return s, key, err
}

func (f file) readRoots(s *settings, base string) (err error) {
	s.device.Roots, err = roots(absolute(base, f.CA))
	return err
}

func (f file) readPackageRoots(s *settings, base string) (err error) {
	if f.PackageCA != "" {
		s.device.PackageRoots, err = roots(absolute(base, f.PackageCA))
	}
	return err
}

func (f file) readKeepAlive(s *settings, _ string) (err error) {
	if f.KeepAlive == "" {
		return nil
	}
	if s.device.KeepAlive, err = time.ParseDuration(f.KeepAlive); err != nil {
		return errors.New("must be a duration with its unit, such as 30s")
	}
	return nil
}

func (f file) readTopics(s *settings, _ string) error {
	if f.Topics == (topics{}) {
		return nil
	}
	if f.Topics.Get == "" || f.Topics.Ack == "" {
		return errors.New("get and ack are both required where one topic is named")
	}
	f.Topics.into(&s.device)
	return nil
}

func (f file) readCommand(s *settings, base string) (err error) {
	if len(f.AfterSwitch) > 0 {
		s.afterSwitch, err = command(base, f.AfterSwitch)
	}
	return err
}

// readRenewal turns the file's 0, which is never, into package device's, where
// 0 is what nobody has said.
func (f file) readRenewal(s *settings, _ string) error {
	for _, share := range []struct {
		from *float64
		into *float64
	}{{f.RenewAt, &s.device.RenewAt}, {f.RenewJitter, &s.device.RenewJitter}} {
		switch {
		case share.from == nil:
		case *share.from < 0:
			return errors.New("must not be negative")
		case *share.from == 0:
			*share.into = -1
		default:
			*share.into = *share.from
		}
	}
	return nil
}

func (f file) checkKey(*settings, string) error {
	switch f.Key {
	case "", "file":
		if f.KeyFile != "" {
			return errors.New("must be fixed where key_file is named")
		}
		return nil
	case "fixed":
		if f.KeyFile == "" {
			return errors.New("fixed needs key_file")
		}
		return nil
	}
	return fmt.Errorf("unknown key %q: must be file or fixed", f.Key)
}

func (f file) readKey(s *settings, base string) error {
	if f.KeyFile == "" {
		return nil
	}
	s.keyFile = absolute(base, f.KeyFile)
	text, err := readFile(s.keyFile)
	if err != nil {
		return err
	}
	s.device.FixedKey, err = device.ParseKey(text)
	return err
}

// refused returns the first key whose value package device does not take: it
// tries them one by one.
func refused(c device.Config) (key string, err error) {
	for _, try := range []struct {
		key string
		set func(*device.Config)
	}{
		{"device", func(t *device.Config) { t.Device = c.Device }},
		{"broker", func(t *device.Config) { t.Broker = c.Broker }},
		{"flow", func(t *device.Config) { t.Flow = c.Flow }},
		{"keepalive", func(t *device.Config) { t.KeepAlive = c.KeepAlive }},
		{"topics", func(t *device.Config) { t.Topics = c.Topics }},
		{"renew_at", func(t *device.Config) { t.RenewAt = c.RenewAt }},
		{"renew_jitter", func(t *device.Config) { t.RenewAt, t.RenewJitter = c.RenewAt, c.RenewJitter }},
		{"key", func(t *device.Config) { t.Flow, t.FixedKey = c.Flow, c.FixedKey }},
	} {
		trial := device.Config{Device: "x", Broker: "x:1", Roots: c.Roots, Directory: c.Directory}
		try.set(&trial)
		if err := trial.Validate(); err != nil {
			return try.key, err
		}
	}
	return "", nil
}

func (t topics) into(c *device.Config) {
	c.Topics.Get, c.Topics.Ack = t.Get, t.Ack
	c.Topics.GetAccepted = either(t.GetAccepted, t.Get+"/accepted")
	c.Topics.GetRejected = either(t.GetRejected, t.Get+"/rejected")
	c.Topics.AckAccepted = either(t.AckAccepted, t.Ack+"/accepted")
	c.Topics.AckRejected = either(t.AckRejected, t.Ack+"/rejected")
}

func either(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// command returns the command with its path; a bare name is one of the PATH.
func command(base string, args []string) ([]string, error) {
	if args[0] == "" {
		return nil, errors.New("the command has no name")
	}
	args = append([]string(nil), args...)
	if strings.ContainsRune(args[0], filepath.Separator) {
		args[0] = absolute(base, args[0])
	}
	return args, nil
}
