package device

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/protocol"
)

func TestTopicsOfAJob(t *testing.T) {
	own := protocol.Topics{
		Get: "acme/{thingName}/get", GetAccepted: "acme/{thingName}/get/accepted", GetRejected: "acme/{thingName}/get/rejected",
		Ack: "acme/{thingName}/ack", AckAccepted: "acme/{thingName}/ack/accepted", AckRejected: "acme/{thingName}/ack/rejected",
	}
	var document jobDocument
	if err := protocol.Decode(protocol.Encode(protocol.NewJobDocument(own)), &document); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(own, document.topics(protocol.DefaultTopics())); diff != "" {
		t.Error("usable topics:", diff)
	}
	// What an original deployment hands out with its defaults.
	document.Get.Publish = "cdf/certificates/+/get//+///{thingName}/"
	document.Get.Subscribe = "cdf/certificates/+/get//+///{thingName}//+"
	if diff := cmp.Diff(protocol.DefaultTopics(), document.topics(protocol.DefaultTopics())); diff != "" {
		t.Error("unusable topics:", diff)
	}
	if !(jobDocument{Name: protocol.RotateCertificates}).rotates() || (jobDocument{Operation: "reboot"}).rotates() {
		t.Error("the operation is not recognised")
	}
}

func TestTopicsOfTheJobAreUsed(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	document := jobDocument{
		Operation: protocol.RotateCertificates,
		Get:       protocol.JobTopics{Subscribe: "acme/{thingName}/get/+", Publish: "acme/{thingName}/get"},
		Ack:       protocol.JobTopics{Subscribe: "acme/{thingName}/ack/+", Publish: "acme/{thingName}/ack"},
	}
	w.queueJob("rotate-1", document)
	w.script(func() { w.denySub = "cdf/certificates/" + deviceUnderTest + "/get/+" })
	if err := open(t, cfg).RunOnce(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
}

func TestOtherJobsAreLeftAloneAndLostStartsRepeated(t *testing.T) {
	w := newWorld(t)
	var seen diary
	cfg := w.provision()
	cfg.Event = seen.note
	w.script(func() { w.dropStart = 1 })
	w.queueJob("reboot-1", map[string]string{"operation": "reboot"})
	done := make(chan error)
	a := open(t, cfg)
	go func() { done <- a.RunOnce(deadline(t)) }()
	eventually(t, func() bool { return len(seen.of(JobIgnored)) == 1 })
	w.script(func() {
		if len(w.updates) != 0 || w.job.Status != protocol.JobQueued {
			t.Errorf("a foreign job is %s, updates %+v", w.job.Status, w.updates)
		}
	})
	w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics()))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
}

func TestJobsAreStartedUnseenWhereNobodyShowsThem(t *testing.T) {
	for name, unlike := range map[string]func(*world){
		"no answer": func(w *world) { w.noLook = true },
		"refused":   func(w *world) { w.denySub = "$aws/things/" + deviceUnderTest + "/jobs/$next/get/+" },
		"disconnected": func(w *world) {
			w.noLook, w.onLook = true, func() {
				for _, cl := range w.broker.Clients.GetAll() {
					if !cl.Net.Inline {
						cl.Stop(errors.New("not allowed to ask that"))
					}
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			cfg := w.provision()
			w.script(func() { unlike(w) })
			w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics()))
			if err := open(t, cfg).RunOnce(deadline(t)); err != nil {
				t.Fatal(err)
			}
			checkRotated(t, w, cfg, 1)
			if w.looks > maxUnseen {
				t.Errorf("looked %d times", w.looks)
			}
		})
	}
}

func TestFinishedJobIsReportedAgainNotCarriedOutAgain(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics()))
	a := open(t, cfg)
	if err := a.RunOnce(deadline(t)); err != nil {
		t.Fatal(err)
	}
	w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics())) // the report was lost
	w.script(func() { w.updates = nil })
	done := make(chan error)
	go func() { done <- a.RunOnce(deadline(t)) }()
	eventually(t, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.updates) == 1 })
	if len(w.issued) != 1 || w.updates[0].Status != protocol.JobSucceeded {
		t.Errorf("%d certificates, updates %+v", len(w.issued), w.updates)
	}
	w.queueJob("rotate-2", protocol.NewJobDocument(protocol.DefaultTopics()))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 2)
}

// A vendor whose store is new, or was restored, counts executions from 1 again,
// of a job whose id follows from the configuration. What was queued later is not
// the execution that was carried out.
func TestExecutionOfTheSameNumberQueuedLaterIsCarriedOut(t *testing.T) {
	w := newWorld(t)
	seen := new(diary)
	cfg := w.provision()
	cfg.Event = seen.note
	queue := func(at time.Time) {
		w.queueJob("certvendor-0123456789abcdef", protocol.NewJobDocument(protocol.DefaultTopics()))
		w.script(func() { w.job.QueuedAt = at.Unix() })
	}
	queue(time.Now().Add(-24 * time.Hour))
	if err := open(t, cfg).RunOnce(deadline(t)); err != nil {
		t.Fatal(err)
	}
	running(t, cfg)
	eventually(t, func() bool { return seen.count(Connected) == 2 })
	queue(time.Now())
	eventually(t, func() bool { return seen.count(Promoted) == 2 || seen.count(JobReported) == 2 })
	eventually(t, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.updates) == 2 })
	w.script(func() {
		if len(w.issued) != 2 {
			t.Errorf("the second execution is %s, and %d certificate was issued for both", w.updates[1].Status, len(w.issued))
		}
	})
}

// What await returns where the connection or the context ended beside "no job"
// is no work, and must not be carried out.
func TestNoWorkIsNotCarriedOut(t *testing.T) {
	t.Run("the connection is lost while a finished job is reported again", func(t *testing.T) {
		w := newWorld(t)
		cut := &cutAt{w: w, end: "/update"}
		if err := w.broker.AddHook(cut, nil); err != nil {
			t.Fatal(err)
		}
		seen := new(diary)
		cfg := w.provision()
		cfg.Event = seen.note
		w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics()))
		if err := open(t, cfg).RunOnce(deadline(t)); err != nil {
			t.Fatal(err)
		}
		w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics())) // the report was lost
		w.script(func() { cut.on = true })
		lost := seen.count(Disconnected)
		stop := running(t, cfg)
		eventually(t, func() bool { return seen.count(Disconnected) > lost })
		w.script(func() { cut.on, w.job = false, nil }) // the network is well again, and the job has timed out
		stop()
		goesOn(t, w, cfg)
	})
	t.Run("the agent is stopped while it sees somebody else's job", func(t *testing.T) {
		w := newWorld(t)
		cfg := w.provision()
		ctx, cancel := context.WithCancel(deadline(t))
		cfg.Event = func(e Event) {
			if e.Kind == JobIgnored {
				cancel()
			}
		}
		w.queueJob("reboot-1", map[string]string{"operation": "reboot"})
		if err := open(t, cfg).Run(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		goesOn(t, w, cfg)
	})
}

// goesOn fails unless the next job is carried out, by whatever was left.
func goesOn(t *testing.T, w *world, cfg Config) {
	t.Helper()
	seen := new(diary)
	cfg.Event = seen.note
	if c := open(t, cfg).store.state.Candidate; c != nil {
		t.Errorf("nobody asked for a rotation, and one was begun: %+v", *c)
	}
	w.queueJob("rotate-2", protocol.NewJobDocument(protocol.DefaultTopics()))
	running(t, cfg)
	eventually(t, func() bool { return seen.count(Promoted) == 1 || seen.count(Disconnected) >= 20 })
	if seen.count(Promoted) == 0 {
		t.Errorf("20 connections later nothing has rotated: %v", seen.of(Disconnected)[19].Err)
	}
}

// What an earlier version kept of the finished job does not say when it was
// queued.
func TestExecutionsAreComparedByWhatIsKnown(t *testing.T) {
	finished := jobReference{ID: "rotate-1", Execution: 1, QueuedAt: 100}
	for _, c := range []struct {
		other jobReference
		want  bool
	}{
		{finished, true},
		{jobReference{ID: "rotate-1", Execution: 1}, true},
		{jobReference{ID: "rotate-1", Execution: 1, QueuedAt: 101}, false},
		{jobReference{ID: "rotate-1", Execution: 2}, false},
		{jobReference{}, false},
	} {
		if finished.is(c.other) != c.want || c.other.is(finished) != c.want {
			t.Errorf("%+v: want %t", c.other, c.want)
		}
	}
}
