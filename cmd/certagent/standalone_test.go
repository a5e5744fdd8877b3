package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/certvendor/certvendor/internal/loopback"
)

// server is a real certvendor with a world of its own.
type server struct {
	t         *testing.T
	program   string
	directory string
	broker    string
}

// startDaemon builds certvendor the way it is shipped, and serves.
func startDaemon(t *testing.T) server {
	t.Helper()
	directory, err := os.MkdirTemp("", "cv") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	d := server{t: t, program: filepath.Join(directory, "certvendor"), directory: directory, broker: freeAddress(t)}
	build := exec.Command("go", "build", "-o", d.program, "../certvendor")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text := "metrics: {listen: ''}\ncontrol: {socket: s}\nvending: {validity: 24h}\nrotation: {grace: 0s}\ncsr: {reuse_key: allow}\n" +
		"standalone:\n  broker: {listen: '" + d.broker + "'}\n  packages: {listen: '" + freeAddress(t) + "'}\n"
	if err := os.WriteFile(filepath.Join(directory, "config.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	serve := exec.Command(d.program, "serve")
	serve.Dir = directory
	log, _ := box{t: t, directory: directory}.start(serve)
	eventually(t, "the daemon answers", func() bool {
		list := exec.Command(d.program, "device", "list")
		list.Dir = directory
		return list.Run() == nil
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the daemon: %s", log)
		}
	})
	return d
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := loopback.Address()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// call runs one of the operator's verbs.
func (d server) call(t *testing.T, args ...string) string {
	t.Helper()
	c := exec.Command(d.program, args...)
	c.Dir = d.directory
	out, err := c.Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		t.Fatalf("certvendor %s: %s", strings.Join(args, " "), exit.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// record is what the daemon says about a device.
type record struct {
	Certificates []struct{ CertificateID, Standing string }
	Rotations    []struct{ State string }
}

func (d server) record(t *testing.T, device string) (r record) {
	t.Helper()
	if err := json.Unmarshal([]byte(d.call(t, "rotation", "show", device, "--json")), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// enrol adds a device by the daemon's own means.
func (d server) enrol(t *testing.T, device, more string) box {
	t.Helper()
	b := box{t: t, directory: t.TempDir()}
	d.call(t, "device", "add", device, "--out", b.directory)
	b.write("fixed.key", b.read(device+".key"))
	b.write("agent.yaml", fmt.Sprintf("device: %s\nbroker: %s\nca: ca.crt\ndirectory: store\nrenew_jitter: 0\n%s", device, d.broker, more))
	b.enrol(device+".crt", device+".key")
	return b
}

func TestRotatesOnTheStandaloneBroker(t *testing.T) {
	d := startDaemon(t)
	for _, c := range []struct {
		device, more string
		rounds       int
	}{
		{"csr", "", 2},
		{"alpn", "alpn: true\n", 1},
		{"take-over", "take_over: true\n", 1},
		{"fixed", "key: fixed\nkey_file: fixed.key\n", 3},
		{"package", "flow: package\n", 1},
		// Due from the first minute: a clock would have to be hours off for that.
		{"renewal", "renew_at: 0.003\n", 0},
	} {
		t.Run(c.device, func(t *testing.T) {
			b := d.enrol(t, c.device, c.more)
			first := b.status()
			run := b.command("run")
			log, ended := b.start(run)
			eventually(t, "it is connected", func() bool { return strings.Contains(log.String(), "msg=connected") })
			for round := 1; round <= max(c.rounds, 1); round++ {
				d.rotate(t, b, log, c.device, round)
			}
			terminate(t, run, ended)
			d.checkEnd(t, b, c.device, first, max(c.rounds, 1))
		})
	}
}

// rotate asks the device to rotate, unless its certificate's age does, and
// waits until it has.
func (d server) rotate(t *testing.T, b box, log *transcript, device string, round int) {
	t.Helper()
	if device == "package" {
		d.call(t, "package", "create", device)
	}
	if device != "renewal" {
		d.call(t, "rotation", "add", device)
	}
	eventually(t, fmt.Sprintf("round %d is over", round), func() bool {
		if strings.Count(log.String(), "msg=promoted") < round {
			return false
		}
		r := d.record(t, device)
		for _, rotation := range r.Rotations {
			if rotation.State != "finished" {
				return false
			}
		}
		return len(r.Rotations) == round
	})
	if strings.Count(log.String(), "msg=promoted") != round {
		t.Errorf("round %d: %s", round, log)
	}
}

// checkEnd holds what the device has against what the daemon says and takes.
func (d server) checkEnd(t *testing.T, b box, device string, first standing, rounds int) {
	t.Helper()
	now := b.status()
	active := 0
	r := d.record(t, device)
	for _, certificate := range r.Certificates {
		if certificate.Standing == "ACTIVE" {
			active++
			if certificate.CertificateID != now.CertificateID {
				t.Errorf("active: %s, in use: %s", certificate.CertificateID, now.CertificateID)
			}
		}
	}
	if active != 1 || len(r.Certificates) != rounds+1 || now.Unfinished != nil || now.CertificateID == first.CertificateID {
		t.Errorf("the daemon: %+v; the device: %+v", r, now)
	}
	if err := d.connect(t, b, device, b.path(device+".crt"), b.path(device+".key")); err == nil {
		t.Error("the first certificate still connects")
	}
	if err := d.connect(t, b, device, now.Certificate, now.Key); err != nil {
		t.Error("the certificate in use:", err)
	}
}

func (d server) connect(t *testing.T, b box, device, certificate, key string) error {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	broker := vendor{t: t, address: d.broker, ca: parse(t, b.read("ca.crt"))}
	client, err := broker.dial(device+"/try", pair)
	if err == nil {
		client.Disconnect(0)
	}
	return err
}
