package app_test

import (
	"crypto/tls"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
)

// actorWith is actor for a device with attributes.
func (w *world) actorWith(t *testing.T, name string, attributes map[string]string) *actor {
	t.Helper()
	key := newKey(t)
	added, err := w.client.AddDevice(t.Context(), control.AddRequest{Name: name, CSR: newCSR(t, key, name), Attributes: attributes})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(added.Certificate))
	pair := tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
	return &actor{name: name, old: pair, oldID: idOf(pair)}
}

// TestWindowsOpenByTheDevicesClocks has a window that opens in two hours by the
// clocks of Tokyo, and nine hours later by those that say nothing. A device is
// let in when its own is open, and not before.
func TestWindowsOpenByTheDevicesClocks(t *testing.T) {
	var clock wall
	w := startOn(t, &clock, 0, func(*config.Config) {})
	lamp := w.actorWith(t, "lamp", map[string]string{"timezone": "Asia/Tokyo"})
	pump := w.actorWith(t, "pump", map[string]string{"timezone": "Moon/Base"}) // which nobody knows: UTC
	tokyo, err := time.LoadLocation("Asia/Tokyo")
	if err != nil {
		t.Fatal(err)
	}
	overLamp, overPump := w.open(t, "lamp", "lamp", lamp.old), w.open(t, "pump", "pump", pump.old)
	opens := clock.now().In(tokyo).Add(2 * time.Hour)
	spec := campaign.Spec{
		Name: "nightly", Choose: campaign.Choice{All: true}, PerMinute: 6000,
		Window: campaign.Window{From: opens.Format("15:04"), To: opens.Add(2 * time.Hour).Format("15:04"), Zone: "timezone"},
	}
	if _, err := w.client.ApplyCampaign(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	standings := func() (c control.Campaign, members string) {
		t.Helper()
		c, err := w.client.Campaign(t.Context(), "nightly")
		if err != nil {
			t.Fatal(err)
		}
		for m, err := range w.client.Members(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			members += m.Device + " "
		}
		return c, members
	}
	closed := func(pending int) {
		t.Helper()
		eventually(t, "it waits for a window", func() bool {
			c, _ := standings()
			return c.Holding == "no window is open" && c.Standings[campaign.Pending] == pending
		})
		if _, members := standings(); members != "" {
			t.Errorf("let in while no window is open: %s", members)
		}
	}
	closed(2)
	clock.set(3 * time.Hour)
	eventually(t, "the one in Tokyo is let in", func() bool {
		c, members := standings()
		return members == "lamp " && c.Standings[campaign.Pending] == 1
	})
	w.rotate(t, lamp, overLamp)
	clock.set(5 * time.Hour) // no window is open
	closed(1)
	clock.set(12 * time.Hour)
	eventually(t, "the other one is let in", func() bool {
		_, members := standings()
		return strings.TrimSpace(members) == "pump"
	})
	w.rotate(t, pump, overPump)
	eventually(t, "the campaign has finished", func() bool {
		c, _ := standings()
		return c.State == campaign.Finished && c.Standings[campaign.Passed] == 2
	})
}
