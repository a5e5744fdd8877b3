package device

import (
	"testing"

	"github.com/certvendor/certvendor/protocol"
)

func topicsUnder(root string) protocol.Topics {
	t := protocol.Topics{Get: root + "/{thingName}/get", Ack: root + "/{thingName}/ack"}
	t.GetAccepted, t.GetRejected = t.Get+"/accepted", t.Get+"/rejected"
	t.AckAccepted, t.AckRejected = t.Ack+"/accepted", t.Ack+"/rejected"
	return t
}

// Topics with a slip in them are put right, in the configuration or with a new
// job: what was begun with the wrong ones must not keep to them for ever.
func TestTopicsThatWerePutRightAreUsed(t *testing.T) {
	const denied = "slip/" + deviceUnderTest + "/get/+"
	t.Run("in the configuration", func(t *testing.T) {
		w := newWorld(t)
		cfg := w.provision()
		w.script(func() { w.denySub = denied })
		cfg.Topics = topicsUnder("slip")
		if err := open(t, cfg).Rotate(deadline(t)); err == nil {
			t.Fatal("rotated on topics that nobody answers")
		}
		cfg.Topics = protocol.DefaultTopics()
		if err := open(t, cfg).Rotate(deadline(t)); err != nil {
			t.Errorf("with the right topics: %v", err)
		}
	})
	t.Run("by the job being canceled", func(t *testing.T) {
		w := newWorld(t)
		seen := new(diary)
		cfg := w.provision()
		cfg.Event = seen.note
		w.script(func() { w.denySub = denied })
		w.queueJob("rotate-1", protocol.NewJobDocument(topicsUnder("slip")))
		stop := running(t, cfg)
		eventually(t, func() bool { return seen.count(Disconnected) >= 2 })
		w.script(func() { w.job = nil })
		eventually(t, func() bool { return seen.count(Promoted) == 1 })
		stop()
		checkRotated(t, w, cfg, 1)
	})
	t.Run("by the configuration, for a package", func(t *testing.T) {
		w := newWorld(t)
		w.servePackage(t, nil)
		seen := new(diary)
		cfg := w.provision()
		cfg.Event, cfg.Flow = seen.note, ByPackage
		w.script(func() { w.denySub = denied })
		w.queueJob("rotate-1", protocol.NewJobDocument(topicsUnder("slip")))
		running(t, cfg)
		eventually(t, func() bool { return seen.count(Promoted) >= 1 || seen.count(Disconnected) >= 20 })
		if seen.count(Promoted) == 0 {
			t.Error("20 connections on topics that nobody answers:", seen.of(Disconnected)[19].Err)
		}
	})
	slip, slipInAck := protocol.NewJobDocument(topicsUnder("slip")), protocol.NewJobDocument(protocol.DefaultTopics())
	slipInAck.Ack = protocol.JobTopics{Subscribe: "slip/{thingName}/ack/+", Publish: "slip/{thingName}/ack"}
	for name, c := range map[string]struct {
		document any
		denied   string
	}{
		"with a new job":                   {slip, denied},
		"with a new job, the ack's topics": {slipInAck, "slip/" + deviceUnderTest + "/ack/+"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			seen := new(diary)
			cfg := w.provision()
			cfg.Event = seen.note
			w.script(func() { w.denySub = c.denied })
			w.queueJob("rotate-1", c.document)
			running(t, cfg)
			eventually(t, func() bool { return seen.count(Disconnected) >= 2 })
			w.queueJob("rotate-2", protocol.NewJobDocument(protocol.DefaultTopics())) // rotate-1 was canceled
			before := seen.count(Disconnected)
			eventually(t, func() bool { return seen.count(Promoted) >= 1 || seen.count(Disconnected) >= before+20 })
			if seen.count(Promoted) == 0 {
				last := seen.of(Disconnected)
				t.Errorf("20 connections after the new job: %v", last[len(last)-1].Err)
			}
		})
	}
}
