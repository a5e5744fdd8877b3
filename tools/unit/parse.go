package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// service is what a unit says of its program.
type service struct {
	command             []string
	user, group         string // empty: root's
	dynamic             bool
	state, runtime      directory
	configuration       string
	credentials         map[string]string // file by name
	umask               int
	limits              map[string]uint64
	noNewPrivileges     bool
	noCapabilities      bool
	watchdog, stopLimit time.Duration
}

// directory is one that systemd makes, below /var/lib or /run.
type directory struct {
	name string
	mode os.FileMode
}

// sandbox lists the directives that need systemd itself: what they forbid is not
// forbidden here, and what they do to a program that ends is not done here.
var sandbox = map[string]bool{
	"DevicePolicy": true, "KeyringMode": true, "LockPersonality": true, "MemoryDenyWriteExecute": true,
	"PrivateDevices": true, "PrivateIPC": true, "PrivateTmp": true, "PrivateUsers": true, "ProcSubset": true,
	"ProtectClock": true, "ProtectControlGroups": true, "ProtectHome": true, "ProtectHostname": true,
	"ProtectKernelLogs": true, "ProtectKernelModules": true, "ProtectKernelTunables": true, "ProtectProc": true,
	"ProtectSystem": true, "RemoveIPC": true, "RestrictAddressFamilies": true, "RestrictNamespaces": true,
	"RestrictRealtime": true, "RestrictSUIDSGID": true, "SystemCallArchitectures": true,
	"SystemCallErrorNumber": true, "SystemCallFilter": true,

	"Restart": true, "RestartPreventExitStatus": true, "RestartSec": true, "NotifyAccess": true, "TimeoutStartSec": true,
}

// parse reads the section Service of a unit: systemd.service(5), systemd.exec(5).
func parse(text string) (service, error) {
	s := service{
		state: directory{mode: 0o755}, runtime: directory{mode: 0o755}, umask: 0o022, stopLimit: 90 * time.Second,
		credentials: map[string]string{}, limits: map[string]uint64{},
	}
	section, number := "", 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			section = line
		case section != "[Service]":
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok {
				return s, fmt.Errorf("line %d: %q is no directive", number, line)
			}
			if err := s.set(key, value); err != nil {
				return s, fmt.Errorf("line %d: %s: %w", number, key, err)
			}
		}
	}
	if len(s.command) == 0 {
		return s, errors.New("there is no ExecStart")
	}
	return s, nil
}

var errUnknown = errors.New("not known here: honour it, or list it as part of the sandbox")

// set takes a directive in. It is one switch, so that a directive is looked up
// where systemd's manual has it.
func (s *service) set(key, value string) (err error) {
	if strings.Contains(value, "%") {
		return errors.New("specifiers are not known here")
	}
	switch key {
	case "Type":
		if value != "notify" {
			return fmt.Errorf("%q is not known here", value)
		}
	case "ExecStart":
		if !strings.HasPrefix(value, "/") || strings.ContainsAny(value, `"'\$`) {
			return errors.New("only an absolute path and plain words are known here")
		}
		s.command = strings.Fields(value)
	case "User":
		s.user = value
	case "Group":
		s.group = value
	case "DynamicUser":
		s.dynamic = value == "yes"
	case "StateDirectory":
		s.state.name = value
	case "StateDirectoryMode":
		s.state.mode, err = mode(value)
	case "RuntimeDirectory":
		s.runtime.name = value
	case "RuntimeDirectoryMode":
		s.runtime.mode, err = mode(value)
	case "ConfigurationDirectory":
		s.configuration = value
	case "LoadCredential":
		name, file, _ := strings.Cut(value, ":")
		s.credentials[name] = file
	case "UMask":
		var m os.FileMode
		m, err = mode(value)
		s.umask = int(m)
	case "LimitNOFILE", "LimitCORE":
		s.limits[key], err = strconv.ParseUint(value, 10, 64)
	case "NoNewPrivileges":
		s.noNewPrivileges = value == "yes"
	case "CapabilityBoundingSet", "AmbientCapabilities":
		if value != "" {
			return errors.New("only the empty set is known here")
		}
		s.noCapabilities = true
	case "WatchdogSec":
		s.watchdog, err = span(value)
	case "TimeoutStopSec":
		s.stopLimit, err = span(value)
	default:
		if !sandbox[key] {
			return errUnknown
		}
	}
	return err
}

func mode(octal string) (os.FileMode, error) {
	m, err := strconv.ParseUint(octal, 8, 12)
	return os.FileMode(m), err
}

// span reads a time span: systemd.time(7). A bare number is seconds.
func span(text string) (time.Duration, error) {
	if seconds, err := strconv.Atoi(text); err == nil {
		return time.Duration(seconds) * time.Second, nil
	}
	return time.ParseDuration(strings.TrimSuffix(text, "in"))
}
