package app_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/app"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// observes starts the daemon of a world anew, as one that only looks on.
func (w *world) observes(t *testing.T) {
	t.Helper()
	w.stop()
	w.config.Observe, w.log = true, &lines{}
	var err error
	if w.app, err = app.New(t.Context(), w.config, zerolog.New(w.log)); err != nil {
		t.Fatal(err)
	}
	if err := w.app.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.target.Broker = w.app.BrokerAddr()
}

// observed sends a request, waits until it is logged, and fails the test if
// anything came back but the broker's own acknowledgement. It returns the line.
func (w *world) observed(t *testing.T, over *peer, action protocol.Action, payload string) string {
	t.Helper()
	const text = `"message":"observed, not answered"`
	before := strings.Count(w.log.String(), text)
	over.id++
	if err := over.write(message(t, 1, over.id, protocol.DefaultTopics().Request(over.name, action), []byte(payload))); err != nil {
		t.Fatal(err)
	}
	w.logs(t, text, before+1)
	over.in(t).quiet()
	var last string
	for line := range strings.Lines(w.log.String()) {
		if strings.Contains(line, text) {
			last = line
		}
	}
	return last
}

// TestObserve has devices ask a daemon that only looks on, over what another has
// vended: it logs what it would answer, and the world stays as it is.
func TestObserve(t *testing.T) {
	w := start(t, func(c *config.Config) {
		c.Rotation.Settle, c.Rotation.SweepEvery, c.Rotation.TTL = 0, 10*time.Millisecond, time.Hour
	})
	lamp, pump := w.actor(t, "lamp"), w.actor(t, "pump")
	pump.get(t, w.open(t, "pump", "pump", pump.old))
	if err := w.client.Join(t.Context(), []string{"lamp"}, func(control.Outcome) {}); err != nil {
		t.Fatal(err)
	}
	w.settle(t)
	w.observes(t)
	begun := time.Now()
	w.unchanged(t, func(t *testing.T) {
		over := w.open(t, "lamp", "lamp", lamp.old)
		if line := w.observed(t, over, protocol.Get, body(t, "csr", newCSR(t, newKey(t), "lamp"))); !strings.Contains(line, `"verdict":"accepted"`) ||
			!strings.Contains(line, `"effects":["rotation 1 is opened","a new certificate, valid until `) {
			t.Errorf("a get: %s", line)
		}
		for want, payload := range map[protocol.Reason]string{
			protocol.CSRRejected: body(t, "csr", newCSR(t, newKey(t), "somebody else")), protocol.NoPackage: "{}", protocol.Malformed: "{",
		} {
			if line := w.observed(t, over, protocol.Get, payload); !strings.Contains(line, `"verdict":"rejected","reason":"`+string(want)+`"`) {
				t.Errorf("a get that is %s: %s", want, line)
			}
		}
		if line := w.observed(t, over, protocol.Ack, "{}"); !strings.Contains(line, `"verdict":"rejected"`) {
			t.Errorf("an ack of nothing: %s", line)
		}
		// A connection over what was vended proves nothing, and its ack finishes nothing.
		next := w.open(t, "pump", "pump/candidate", pump.next)
		if line := w.observed(t, next, protocol.Ack, "{}"); !strings.Contains(line, `"verdict":"accepted"`) ||
			!strings.Contains(line, "rotation 1 becomes finished") {
			t.Errorf("an ack: %s", line)
		}
		// The Jobs API says nothing either.
		if code, ok := over.subscribe("$aws/things/lamp/jobs/#"); !ok || code == refused {
			t.Fatal("it may not hear of its jobs")
		}
		over.id++
		if err := over.write(message(t, 1, over.id, "$aws/things/lamp/jobs/get", []byte("{}"))); err != nil {
			t.Fatal(err)
		}
		over.in(t).quiet()
	})
	w.inState(t, "pump", rotation.Vended)
	d, err := w.client.Device(t.Context(), "pump")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range d.Certificates {
		if string(c.ID) == idOf(pump.next) && c.LastSeen.Before(begun) {
			t.Errorf("the sighting is not recorded: %s", c.LastSeen)
		}
	}
	w.saysThatItObserves(t)
}

func (w *world) saysThatItObserves(t *testing.T) {
	t.Helper()
	if code, text := w.readyz(); code != http.StatusOK || !strings.Contains(text, "observe is true") {
		t.Errorf("/readyz: %d, %s", code, text)
	}
	if !strings.Contains(w.log.String(), `"level":"warn","message":"observe is true`) {
		t.Error("it does not say so at the start")
	}
	if status, err := w.client.Status(t.Context()); err != nil || !status.Observes {
		t.Errorf("%+v, %v", status, err)
	}
	if strings.Contains(w.log.String(), `"message":"request"`) {
		t.Error("a request was answered")
	}
	if _, err := w.client.Sweep(t.Context(), false); err == nil || !strings.Contains(err.Error(), "observe is true") {
		t.Errorf("sweep: %v", err)
	}
	if err := w.client.Join(t.Context(), []string{"pump"}, func(control.Outcome) {}); err == nil || !strings.Contains(err.Error(), "observe is true") {
		t.Errorf("join: %v", err)
	}
}
