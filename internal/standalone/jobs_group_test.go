package standalone

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// leavingGroup does what leaving does to the executions.
type leavingGroup struct {
	rotation.Group
	memory *jobMemory
	err    error
}

func (g leavingGroup) Remove(_ context.Context, id registry.DeviceID, _ time.Time) error {
	g.memory.mu.Lock()
	defer g.memory.mu.Unlock()
	for i, e := range g.memory.all {
		if g.err == nil && e.Device == id && e.Status == protocol.JobQueued {
			g.memory.all[i] = e.End(protocol.JobRemoved, jobTime)
		}
	}
	return g.err
}

func TestADeviceIsToldOfTheJobThatLeavingTakes(t *testing.T) {
	w := newJobWorld(t)
	w.memory.queue("dev1", "rotate", 1)
	group := w.Group(leavingGroup{memory: w.memory})
	for range 2 {
		if err := group.Remove(t.Context(), "dev1", time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.published) != 2 || w.ended != 1 {
		t.Fatalf("published %v, ended %d", w.published, w.ended)
	}
	same(t, w.published[0].topic, w.published[0].body, `{"timestamp":1800000000,"jobs":{}}`)
	same(t, w.published[1].topic, w.published[1].body, `{"timestamp":1800000000}`)
}

func TestADeviceThatKeepsItsJobIsToldNothing(t *testing.T) {
	w := newJobWorld(t)
	w.memory.queue("dev1", "rotate", 1)
	w.ask("start-next", "")
	if err := w.Group(leavingGroup{memory: w.memory}).Remove(t.Context(), "dev1", time.Time{}); err != nil {
		t.Fatal(err)
	}
	failing := leavingGroup{memory: w.memory, err: errors.New("disk full")}
	if err := w.Group(failing).Remove(t.Context(), "dev1", time.Time{}); err == nil {
		t.Error("the group's error was lost")
	}
	if len(w.published) != 0 || w.ended != 0 {
		t.Errorf("published %v, ended %d", w.published, w.ended)
	}
}
