package app_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/certvendor/certvendor/internal/control"
)

const (
	sharedKey    = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	sharedThings = 8
	sharedKills  = 4
)

// Two instances share one store through a table. The one that leads is killed
// again and again while things ask for certificates, and started again to stand
// by, and once it is only paused: each key gets one certificate, whoever answers,
// and AWS is asked once for it.
func TestInstancesAreKilledInTurn(t *testing.T) {
	t.Setenv("MOTO_RECORDER_FILEPATH", filepath.Join(t.TempDir(), "recording"))
	program := buildProgram(t)
	moto, broker := moto(t), newTLSPair(t)
	address := mosquittoFor(t, broker)
	account := prepareAWS(t, moto)
	f := speakForAll(t, broker, address)
	f.makeThings(account)
	record(t, moto, "start-recording")

	instances := []*instance{}
	for _, name := range []string{"a", "b"} {
		instances = append(instances, newInstance(t, program, name, fmt.Sprintf(`issuer: {kind: ssm, ca: %q}
  endpoint_url: %s
  broker: {way: mtls, endpoint: %q, certificate: %s, key: %s, ca: %s, rule_key: "env:RULE_KEY"}
`, account.ca, moto, address, broker.file("certvendor.pem"), broker.file("certvendor.key"), broker.file("ca.pem"))))
	}
	for _, i := range instances {
		i.start()
	}
	leader := leading(t, instances)
	standby := instances[1-slices.Index(instances, leader)]
	eventually(t, "the other one says that it stands by, and who leads", func() bool {
		err := standby.client.Ready(t.Context())
		return err != nil && strings.Contains(err.Error(), "stands by, and ") && strings.Contains(err.Error(), fmt.Sprintf("/%d leads", leader.cmd.Process.Pid))
	})
	for path, want := range map[string]string{
		"/healthz": "alive: this instance stands by", "/readyz": "leads: ask that one", "/metrics": "certvendor_leads 0\n",
	} {
		if text := scrape(t, "http://"+standby.metrics+path); !strings.Contains(text, want) {
			t.Errorf("%s of who stands by: %q", path, text)
		}
	}
	if text := scrape(t, "http://"+leader.metrics+"/metrics"); !strings.Contains(text, "certvendor_leads 1\n") {
		t.Error("the one that leads does not say so in its metrics")
	}
	if _, err := standby.client.Freeze(t.Context(), control.What{Vending: true}, "a test"); err == nil || !strings.Contains(err.Error(), "stands by") {
		t.Errorf("who stands by is told to freeze: %v", err)
	}

	var rotating sync.WaitGroup
	t.Cleanup(func() { f.enough.Store(true); rotating.Wait() })
	for _, thing := range f.things {
		rotating.Go(func() { f.rotate(thing) })
	}
	for range sharedKills {
		leader := leading(t, instances)
		before := f.answered.Load()
		eventually(t, "it answers", func() bool { return f.answered.Load() >= before+sharedThings })
		leader.kill()
		leader.start()
	}
	paused := leading(t, instances)
	other := instances[1-slices.Index(instances, paused)]
	paused.pause(func() {
		eventually(t, "the other one leads", func() bool { return other.client.Ready(t.Context()) == nil })
		before := f.answered.Load()
		eventually(t, "it answers", func() bool { return f.answered.Load() >= before+sharedThings })
	})
	paused.start()
	f.enough.Store(true)
	rotating.Wait()
	if t.Failed() {
		return
	}
	leader = leading(t, instances)
	f.wantOneEach(leader, account)
	record(t, moto, "stop-recording")
	registeredOnce(t, moto, f)

	// Ended in an orderly way, it gives up its place: the lease is not waited for.
	rows, err := leader.client.VerifyAudit(t.Context())
	if err != nil || rows == 0 {
		t.Errorf("the audit of %d rows: %v", rows, err)
	}
	leader.terminate()
	other = instances[1-slices.Index(instances, leader)]
	eventually(t, "the other one leads", func() bool { return other.client.Ready(t.Context()) == nil })
	more, err := other.client.VerifyAudit(t.Context())
	if err != nil || more <= rows {
		t.Errorf("its audit has %d rows after %d: %v", more, rows, err)
	}
	other.terminate()
}
