package main

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/device"
)

const minimal = "device: pump-7\nbroker: localhost:8883\nca: roots.pem\ndirectory: store\n"

// configured writes a configuration beside a roots.pem.
func configured(t *testing.T, text string) (path string) {
	t.Helper()
	b := box{t: t, directory: t.TempDir()}
	v := &vendor{t: t, accepted: map[string]bool{}, key: newKey(t)}
	v.ca = v.sign(newAuthority(), v.key.Public())
	v.firstPair(b.directory)
	b.write("agent.yaml", text)
	return b.path("agent.yaml")
}

func TestConfigurationErrorsNameTheLine(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "agent.yaml: device: is required"},
		{"# nothing\n", "agent.yaml: device: is required"},
		{minimal + "colour: red\n", `agent.yaml:5: unknown field "colour"`},
		{minimal + "topics:\n  get: a\n  gte: b\n", `agent.yaml:7: unknown field "gte"`},
		{minimal + "device: pump-8\n", `agent.yaml:5: mapping key "device" already defined`},
		{minimal + "proof: maybe\n", "agent.yaml:5: cannot unmarshal string"},
		{minimal + "after_switch: reload\n", "agent.yaml:5: string was used where sequence is expected"},
		{minimal + "after_switch: ['']\n", "agent.yaml:5: after_switch: the command has no name"},
		{minimal + "keepalive: 30\n", "agent.yaml:5: keepalive: must be a duration with its unit"},
		{minimal + "\nkeepalive: 1h\n", "agent.yaml:6: keepalive: keep-alive 1h0m0s: must be from 1 s to 20 min"},
		{minimal + "flow: pigeon\n", `agent.yaml:5: flow: unknown flow "pigeon"`},
		{minimal + "topics: {get: 'x/{thingName}/get'}\n", "agent.yaml:5: topics: get and ack are both required"},
		{minimal + "topics: {get: 'x/{thingName}/+', ack: 'x/{thingName}/ack'}\n", "agent.yaml:5: topics: "},
		{minimal + "package_ca: none.pem\n", "agent.yaml:5: package_ca: open "},
		{strings.Replace(minimal, "roots.pem", "agent.yaml", 1), "agent.yaml:3: ca: no certificate in "},
		{strings.Replace(minimal, "localhost:8883", "localhost", 1), `agent.yaml:2: broker: broker "localhost": must be host:port`},
		{strings.Replace(minimal, "localhost:8883", "", 1), "agent.yaml:2: broker: is required"},
		{strings.Replace(minimal, "pump-7", "pump/7", 1), "agent.yaml:1: device: device name"},
		{minimal + "renew_at: 1\n", "agent.yaml:5: renew_at: renewal at 1 with"},
		{minimal + "renew_at: -0.5\n", "agent.yaml:5: renew_at: must not be negative"},
		{minimal + "renew_at: soon\n", "agent.yaml:5: cannot unmarshal string"},
		{minimal + "renew_at: 0.6\nrenew_jitter: 0.4\n", "agent.yaml:6: renew_jitter: renewal at 0.6 with a jitter of 0.4"},
		{minimal + "key: tpm\n", `agent.yaml:5: key: unknown key "tpm": must be file or fixed`},
		{minimal + "key: fixed\n", "agent.yaml:5: key: fixed needs key_file"},
		{minimal + "key_file: first.key\nkey: file\n", "agent.yaml:6: key: must be fixed where key_file is named"},
		{minimal + "key_file: first.key\n", "agent.yaml: key: must be fixed where key_file is named"},
		{minimal + "key: fixed\nkey_file: roots.pem\n", "agent.yaml:6: key_file: no private key"},
		{minimal + "key: fixed\nkey_file: none.key\n", "agent.yaml:6: key_file: open "},
		{minimal + "key: fixed\nkey_file: first.key\nflow: package\n", "agent.yaml:5: key: a fixed key excludes"},
		{minimal + "flow: [\n", "agent.yaml:5: "},
		{minimal + "flow: *x\n", "agent.yaml:5: "},
		{minimal + "---\n" + minimal, "agent.yaml: more than one document"},
		{strings.Repeat("#", maxFile+1), "octets"},
	} {
		p := program{out: io.Discard, diagnostics: io.Discard}
		err := p.run(t.Context(), []string{"status", "--config", configured(t, c.text)})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || exitStatus(err) != exitConfig {
			t.Errorf("%.80q: status %d, %v; want %q", c.text, exitStatus(err), err, c.want)
		}
	}
}

func TestConfigurationIsRead(t *testing.T) {
	path := configured(t, minimal+`
package_ca: roots.pem
flow: package
proof: true
name_previous: true
take_over: true
alpn: true
keepalive: 90s
renew_at: 0.5
renew_jitter: 0
after_switch: [./reload, ./now]
topics: {get: 'x/{thingName}/get', ack: 'x/{thingName}/ack', ack_rejected: 'x/{thingName}/ack/no'}
`)
	s, err := load(path)
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Dir(path)
	if diff := cmp.Diff([]string{filepath.Join(base, "reload"), "./now"}, s.afterSwitch); diff != "" {
		t.Error("after_switch:", diff)
	}
	want := device.Config{
		Device: "pump-7", Broker: "localhost:8883", Directory: filepath.Join(base, "store"), Flow: device.ByPackage,
		Proof: true, NamePrevious: true, TakeOver: true, ALPN: true, KeepAlive: 90 * time.Second,
		RenewAt: 0.5, RenewJitter: -1,
		Roots: s.device.Roots, PackageRoots: s.device.PackageRoots,
	}
	want.Topics.Get, want.Topics.GetAccepted, want.Topics.GetRejected = "x/{thingName}/get", "x/{thingName}/get/accepted", "x/{thingName}/get/rejected"
	want.Topics.Ack, want.Topics.AckAccepted, want.Topics.AckRejected = "x/{thingName}/ack", "x/{thingName}/ack/accepted", "x/{thingName}/ack/no"
	if s.device.Roots == nil || s.device.PackageRoots == nil {
		t.Error("no roots")
	}
	// Neither pools nor functions can be compared; the pools are the same here.
	s.device.Roots, s.device.PackageRoots, want.Roots, want.PackageRoots = nil, nil, nil, nil
	if diff := cmp.Diff(want, s.device); diff != "" {
		t.Error(diff)
	}
}

func TestFixedKeyIsReadFromItsFile(t *testing.T) {
	path := configured(t, minimal+"key: fixed\nkey_file: first.key\nrenew_at: 0\n")
	s, err := load(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(s.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	want, err := device.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	if s.keyFile != filepath.Join(filepath.Dir(path), "first.key") || !cmp.Equal(s.device.FixedKey.Public(), want.Public()) {
		t.Errorf("key of %s", s.keyFile)
	}
	if s.device.RenewAt != -1 {
		t.Errorf("renew_at 0 is %g", s.device.RenewAt)
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args   []string
		status int
		out    string
	}{
		{nil, exitUsage, ""},
		{[]string{"dance"}, exitUsage, ""},
		{[]string{"run", "--fast"}, exitUsage, ""},
		{[]string{"run", "agent.yaml"}, exitUsage, ""},
		{[]string{"enrol", "--key", "x"}, exitUsage, ""},
		{[]string{"run", "--config", "/nowhere/agent.yaml"}, exitConfig, ""},
		{[]string{"help"}, 0, "certagent enrol"},
		{[]string{"once", "-h"}, 0, "certagent enrol"},
		{[]string{"version"}, 0, "go1."},
	} {
		var out, diagnostics bytes.Buffer
		p := program{out: &out, diagnostics: &diagnostics}
		err := p.run(t.Context(), c.args)
		p.explain(err)
		if exitStatus(err) != c.status || !strings.Contains(out.String(), c.out) || (c.status != 0) != (diagnostics.Len() > 0) {
			t.Errorf("%q: status %d, %q, %q", c.args, exitStatus(err), out.String(), diagnostics.String())
		}
	}
}

func TestPulse(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, c := range []struct {
		name   string
		events []device.Event
		after  time.Duration
		alive  bool
	}{
		{"start", nil, patience - 1, true},
		{"start that hangs", nil, patience, false},
		{"waiting for a job", events(device.Connected), 1000 * time.Hour, true},
		{"slow answer while waiting for a job", events(device.Connected, device.Waiting), 1000 * time.Hour, true},
		{"a job of somebody else", events(device.Connected, device.JobIgnored), 1000 * time.Hour, true},
		{"hangs in a rotation", events(device.Connected, device.JobReceived, device.Asked), patience, false},
		{"told to wait a day", append(events(device.Connected, device.Asked), device.Event{Kind: device.Waiting, Pause: 24 * time.Hour}), 24 * time.Hour, true},
		{"hangs after it", append(events(device.Connected, device.Asked), device.Event{Kind: device.Waiting, Pause: 24 * time.Hour}), 24*time.Hour + patience, false},
		{"does not connect again", events(device.Connected, device.Disconnected), patience, false},
	} {
		p := &pulse{now: func() time.Time { return now }, due: now.Add(patience)}
		for _, e := range c.events {
			p.note(e)
		}
		p.now = func() time.Time { return now.Add(c.after) }
		if p.alive() != c.alive {
			t.Errorf("%s: alive %t", c.name, !c.alive)
		}
	}
}

func events(kinds ...device.EventKind) (all []device.Event) {
	for _, kind := range kinds {
		all = append(all, device.Event{Kind: kind})
	}
	return all
}

func TestCommandThatHangsIsEndedWithItsChildren(t *testing.T) {
	directory := t.TempDir()
	child := filepath.Join(directory, "child")
	a := newAfterSwitch(settings{afterSwitch: []string{"sh", "-c", "sleep 600 & echo $! >" + child + "; wait"}}, slog.New(slog.DiscardHandler))
	a.timeout = 2 * time.Second
	if err := a.run(t.Context(), standing{}); err == nil || !strings.Contains(err.Error(), "longer than 2s") {
		t.Errorf("got %v", err)
	}
	text, err := os.ReadFile(child)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child is gone", func() bool { return gone(pid) })
}

// gone reports whether the process has ended; nobody may have collected it.
func gone(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(stat), ") Z ")
}
