package app_test

import (
	"strings"
	"testing"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
)

// TestCase99AutoRotates has a device's certificate come due: it is let in by itself,
// rotates, and has passed. An operator can pause the campaign, and not cancel
// it or make another of its name.
func TestCase99AutoRotates(t *testing.T) {
	var clock wall
	w := startOn(t, &clock, 0, func(c *config.Config) { c.Rotation.Auto.Enabled = true })
	lamp := w.actor(t, "lamp")
	over := w.open(t, "lamp", "lamp", lamp.old)
	auto := func() control.Campaign {
		t.Helper()
		c, err := w.client.Campaign(t.Context(), campaign.AutoName)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	eventually(t, "the campaign is there", func() bool {
		all, err := w.client.Campaigns(t.Context())
		return err == nil && len(all) == 1
	})
	if c := auto(); c.State != campaign.Running || c.Devices != 0 {
		t.Errorf("long before: %s, %d devices", c.State, c.Devices)
	}
	clock.set(1000 * day) // of 1095: its turn comes within the first half of the last 365
	eventually(t, "the device is let in", func() bool { return auto().Standings[campaign.Added] == 1 })
	eventually(t, "it is in the group, and the status speaks of the campaign", func() bool {
		status, err := w.client.Status(t.Context())
		return err == nil && status.Auto != nil && status.Members == 1
	})
	w.rotate(t, lamp, over)
	eventually(t, "the device has passed", func() bool { return auto().Standings[campaign.Passed] == 1 })
	if _, err := w.client.SteerCampaign(t.Context(), campaign.AutoName, "cancel"); err == nil || !strings.Contains(err.Error(), "switch rotation.auto off") {
		t.Errorf("cancel: %v", err)
	}
	if c, err := w.client.SteerCampaign(t.Context(), campaign.AutoName, "pause"); err != nil || c.State != campaign.Paused {
		t.Errorf("pause: %s, %v", c.State, err)
	}
	spec := campaign.Spec{Name: campaign.AutoName, Choose: campaign.Choice{All: true}}
	if _, err := w.client.ApplyCampaign(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "the name is the daemon's own") {
		t.Errorf("another of its name: %v", err)
	}
}

// TestAutoStopsAndIsResumed has three devices ask for what is refused: the
// campaign stops, says so wherever one looks, and goes on when it is resumed.
func TestAutoStopsAndIsResumed(t *testing.T) {
	var clock wall
	var told func(string) []map[string]string
	w := startOn(t, &clock, 0, func(c *config.Config) {
		told = hooked(t, c)
		c.Rotation.Auto.Enabled = true
		c.Rotation.Auto.Campaign.PerMinute = 6000
	})
	peers := map[string]*peer{}
	for _, name := range []string{"lamp", "pump", "fan"} {
		a := w.actor(t, name)
		peers[name] = w.open(t, name, name, a.old)
	}
	auto := func() *control.Campaign {
		t.Helper()
		status, err := w.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return status.Auto
	}
	clock.set(1000 * day)
	eventually(t, "all three are let in", func() bool { c := auto(); return c != nil && c.Standings[campaign.Added] == 3 })
	for _, p := range peers {
		p.refusedAs(protocol.CSRRejected, protocol.Get, body(t, "csr", newCSR(t, newKey(t), "somebody else")))
	}
	eventually(t, "it has stopped", func() bool { return auto().State == campaign.Stopped })
	if c := auto(); c.Why != "3 of 3 devices failed" || c.Standings[campaign.Failed] != 3 {
		t.Errorf("%s, %v", c.Why, c.Standings)
	}
	eventually(t, "it is told", func() bool { return len(told("campaign.stopped")) == 1 })
	if got := told("campaign.stopped")[0]; got["campaign"] != "auto" || got["why"] != "3 of 3 devices failed" {
		t.Errorf("%v", got)
	}
	if status, err := w.client.Status(t.Context()); err != nil || status.Members != 0 {
		t.Errorf("%d in the group, %v", status.Members, err)
	}
	if c, err := w.client.SteerCampaign(t.Context(), campaign.AutoName, "resume"); err != nil || c.State != campaign.Running {
		t.Fatalf("resume: %s, %v", c.State, err)
	}
	eventually(t, "it is told that it goes on", func() bool { return len(told("campaign.resumed")) == 1 })
	// It goes on: another device's certificate comes due.
	a := w.actor(t, "late")
	clock.set(2085 * day)
	w.rotateWhenLetIn(t, a)
	if c := auto(); c.State != campaign.Running {
		t.Errorf("it is %s: %s", c.State, c.Why)
	}
}

// rotateWhenLetIn waits until a device is in the group, and has it rotate.
func (w *world) rotateWhenLetIn(t *testing.T, a *actor) {
	t.Helper()
	eventually(t, a.name+" is let in", func() bool {
		for m, err := range w.client.Members(t.Context()) {
			if err == nil && m.Device == a.name {
				return true
			}
		}
		return false
	})
	w.rotate(t, a, w.open(t, a.name, a.name, a.old))
}
