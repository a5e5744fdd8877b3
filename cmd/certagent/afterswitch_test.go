package main

import (
	"strings"
	"sync"
	"testing"

	"github.com/certvendor/certvendor/device"
)

// The answer to the ack may never come, and the old certificate may be retired
// by then: the application does not wait for it.
func TestCommandDoesNotWaitForTheAck(t *testing.T) {
	v := newVendor(t)
	b := newBox(t, v, "after_switch: [./reload]\n")
	b.write("reload", "#!/bin/sh\necho $CERTAGENT_CERTIFICATE_ID >>"+b.path("reloaded"))
	first := b.status()
	answer := make(chan struct{})
	answerNow := sync.OnceFunc(func() { close(answer) })
	t.Cleanup(answerNow)
	v.script(func() {
		v.heard = func(topic string, answered bool) {
			if !answered && strings.HasSuffix(topic, "/ack") {
				<-answer
			}
		}
	})
	v.queueJob("rotate-1")
	c := b.command("run")
	log, ended := b.start(c)
	eventually(t, "the command was run", func() bool { return strings.Contains(log.String(), `msg="after switch"`) })
	now := b.status()
	if now.CertificateID == first.CertificateID || now.Unfinished == nil || now.Unfinished.Stage != device.StageSwitched {
		t.Errorf("before the ack is answered: %+v, %+v", now, now.Unfinished)
	}
	if got := b.read("reloaded"); got != now.CertificateID+"\n" {
		t.Errorf("reloaded %q", got)
	}
	answerNow()
	eventually(t, "the rotation ends", func() bool { return strings.Contains(log.String(), "msg=promoted") })
	terminate(t, c, ended)
	if now := b.status(); now.Unfinished != nil || !v.onlyAccepts(now.CertificateID) {
		t.Errorf("in the end: %+v", now)
	}
}
