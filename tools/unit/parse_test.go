package main

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestShippedUnitsAreKnownWhole(t *testing.T) {
	for name, command := range map[string]string{
		"certvendor": "/usr/bin/certvendor serve --config /etc/certvendor/config.yaml",
		"certagent":  "/usr/bin/certagent run --config /etc/certagent/agent.yaml",
	} {
		text, err := os.ReadFile("../../deploy/" + name + ".service")
		if err != nil {
			t.Fatal(err)
		}
		s, err := parse(string(text))
		if err != nil {
			t.Errorf("%s.service: %v", name, err)
		}
		if got := strings.Join(s.command, " "); got != command {
			t.Errorf("%s.service runs %q, not %q", name, got, command)
		}
		if s.state != (directory{name, 0o700}) || s.umask != 0o077 || !s.noNewPrivileges || !s.noCapabilities {
			t.Errorf("%s.service: read as %+v", name, s)
		}
	}
}

func TestWhatIsNotHonouredIsRefused(t *testing.T) {
	for line, kind := range map[string]error{
		"ExecStartPre=/bin/true": errUnknown, "ProtectSytem=strict": errUnknown,
		"ExecStart=-/bin/true": nil, "StateDirectory=%p": nil, "Type=forking": nil, "CapabilityBoundingSet=CAP_CHOWN": nil,
	} {
		_, err := parse("[Service]\nExecStart=/bin/true\n" + line + "\n")
		if err == nil || kind != nil && !errors.Is(err, kind) {
			t.Errorf("%s: %v", line, err)
		}
	}
	if _, err := parse("[Unit]\nExecStart=/bin/true\n"); err == nil {
		t.Error("a unit without a program is taken")
	}
}

func TestDirectives(t *testing.T) {
	s, err := parse("[Service]\nExecStart=/bin/a b c\nWatchdogSec=2min\nTimeoutStopSec=30\nLoadCredential=ca:/etc/x\nLimitNOFILE=9\n")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.command, []string{"/bin/a", "b", "c"}) || s.watchdog != 2*time.Minute || s.stopLimit != 30*time.Second ||
		s.credentials["ca"] != "/etc/x" || s.limits["LimitNOFILE"] != 9 {
		t.Errorf("read as %+v", s)
	}
}
