package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/internal/fleet"
)

// awaitCampaign waits until a campaign is in a state, over daemons that come
// and go.
func awaitCampaign(t *testing.T, f *crashFleet, name string, state campaign.State) control.Campaign {
	t.Helper()
	var now control.Campaign
	for limit := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		var err error
		if now, err = f.client.Campaign(t.Context(), name); err == nil && now.State == state {
			return now
		}
		if time.Now().After(limit) {
			t.Fatalf("campaign %s is %+v, %v; wanted %s\n%s", name, now, err, state, f.log())
		}
	}
}

// TestKilledCampaign kills the daemon while a wave is at work and at the gate
// behind it. The campaign goes on where it was, and nobody is let in twice.
func TestKilledCampaign(t *testing.T) {
	f := newCrashFleet(t, crashPlan{cdf: 12}, rand.New(rand.NewPCG(1, 1)))
	spec := campaign.Spec{
		Name: "spring", Choose: campaign.Choice{All: true}, Canary: campaign.Canary{Size: campaign.Share{Count: 4}},
		Gates: campaign.Manual, PerMinute: 600, Soak: time.Second,
	}
	if _, err := f.client.ApplyCampaign(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	var living errgroup.Group
	for _, c := range f.devices {
		living.Go(func() error {
			o := f.firmware(c)
			o.Stay = 15 * time.Second
			for {
				report, err := fleet.Run(t.Context(), o)
				if err != nil {
					return err
				}
				if c.played = report.Results[0]; c.played.Err == nil || t.Context().Err() != nil {
					return c.played.Err
				}
			}
		})
	}
	f.restart() // the canary is at work
	f.ready()
	awaitCampaign(t, f, "spring", campaign.AtGate)
	f.restart()
	f.ready()
	gate := awaitCampaign(t, f, "spring", campaign.AtGate)
	if gate.Standings[campaign.Passed] != 4 || gate.Standings[campaign.Pending] != 8 {
		t.Errorf("at the gate: %v", gate.Standings)
	}
	if _, err := f.client.SteerCampaign(t.Context(), "spring", "resume"); err != nil {
		t.Fatal(err)
	}
	f.restart()
	f.ready()
	if end := awaitCampaign(t, f, "spring", campaign.Finished); end.Standings[campaign.Passed] != 12 {
		t.Errorf("in the end: %v", end.Standings)
	}
	if err := living.Wait(); err != nil {
		t.Error(err)
	}
	for m, err := range f.client.CampaignMembers(t.Context(), "spring") {
		if err != nil || m.Rotation == nil || m.Rotation.Number != 1 {
			t.Errorf("%s: %v", text(m), err)
		}
	}
	f.terminate()
}

func text(v any) string {
	all, err := json.Marshal(v)
	return fmt.Sprint(string(all), err)
}
