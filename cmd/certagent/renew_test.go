package main

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"
)

func TestRunRenewsWithoutAJob(t *testing.T) {
	v := newVendor(t)
	v.from, v.to = -70*time.Hour, 30*time.Hour
	b := newBox(t, v, "renew_jitter: 0\n")
	v.script(func() { v.from, v.to = -time.Hour, 99*time.Hour })
	first := b.status()
	if !first.Renews.Equal(first.NotBefore.Add(66 * time.Hour)) {
		t.Errorf("renews %s, valid from %s", first.Renews, first.NotBefore)
	}
	c := b.command("run")
	log, ended := b.start(c)
	eventually(t, "it has renewed", func() bool { return strings.Contains(log.String(), "msg=promoted") })
	terminate(t, c, ended)
	now := b.status()
	if now.CertificateID == first.CertificateID || !v.onlyAccepts(now.CertificateID) || !now.Renews.After(time.Now()) {
		t.Errorf("%+v; the broker takes %v", now, v.accepted)
	}
	if out := log.String(); strings.Count(out, `msg="renewal due"`) != 1 || len(v.updates) != 0 {
		t.Errorf("job updates %+v; %s", v.updates, out)
	}
}

func TestFixedKeyIsUsedForEveryCertificate(t *testing.T) {
	v := newVendor(t)
	v.reuse = true
	b := newBox(t, v, "key: fixed\nkey_file: first.key\nafter_switch: [./reload]\n")
	b.write("reload", "#!/bin/sh\necho $CERTAGENT_KEY >>"+b.path("reloaded"))
	if out, status := b.call("enrol", "--certificate", b.path("first.pem"), "--key", b.path("first.key")); status != exitUsage {
		t.Errorf("enrol with two keys: %d, %s", status, out)
	}
	for round := 1; round <= 2; round++ {
		if out, status := b.call("once"); status != 0 {
			t.Fatalf("once: %d, %s", status, out)
		}
		now := b.status()
		if !v.onlyAccepts(now.CertificateID) || now.Key != b.path("first.key") {
			t.Errorf("status: %+v", now)
		}
		if _, err := tls.LoadX509KeyPair(now.Certificate, now.Key); err != nil {
			t.Error(err)
		}
		if got := strings.Count(b.read("reloaded"), b.path("first.key")+"\n"); got != round {
			t.Errorf("reloaded %d times", got)
		}
	}
	if len(v.vended) != 1 || len(v.gets) != 2 {
		t.Errorf("%d keys in %d gets", len(v.vended), len(v.gets))
	}
}
