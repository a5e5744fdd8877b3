package app_test

import (
	"strings"
	"testing"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
)

// TestAutoRotates has a device's certificate come due: it is let in by itself,
// rotates, and has passed. An operator can pause the campaign, and not cancel
// it or make another of its name.
func TestAutoRotates(t *testing.T) {
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
