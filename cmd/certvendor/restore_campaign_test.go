package main

import (
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/fleet"
)

// TestRestoredCampaign loses the store while a campaign is at work, with a
// backup from before its second wave. The campaign comes back paused, knows who
// was let in and has rotated since, and when it is resumed it goes on: in the
// end every device has rotated once.
func TestRestoredCampaign(t *testing.T) {
	f := &restoredFleet{crashFleet: newCrashFleet(t, crashPlan{agents: 12}, rand.New(rand.NewPCG(1, 1)))}
	f.backup = filepath.Join(f.dir, "b.tar")
	spec := campaign.Spec{
		Name: "spring", Choose: campaign.Choice{All: true}, Canary: campaign.Canary{Size: campaign.Share{Count: 4}},
		Waves: []campaign.Share{{Count: 8}}, Gates: campaign.Manual, PerMinute: 600,
	}
	if _, err := f.client.ApplyCampaign(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	var living errgroup.Group
	for _, c := range f.devices {
		living.Go(func() error { return f.live(t.Context(), c) })
	}
	resume := func() {
		t.Helper()
		if _, err := f.client.SteerCampaign(t.Context(), "spring", "resume"); err != nil {
			t.Fatal(err)
		}
	}
	awaitCampaign(t, f.crashFleet, "spring", campaign.AtGate)
	f.run("backup", "--out", f.backup)
	resume()
	for limit := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) { // the second wave
		gate := awaitCampaign(t, f.crashFleet, "spring", campaign.AtGate)
		if gate.Wave == 1 {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("no second wave: %+v", gate)
		}
	}
	f.awaitNoMember()
	f.terminate()
	f.loseStore()
	f.run("restore", f.backup)
	f.serveAgain()
	for limit := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		paused := awaitCampaign(t, f.crashFleet, "spring", campaign.Paused)
		if paused.Standings[campaign.Passed] == 8 && paused.Standings[campaign.Pending] == 4 && paused.Wave == 1 {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("restored, it is in wave %d: %v", paused.Wave, paused.Standings)
		}
	}
	resume()
	awaitCampaign(t, f.crashFleet, "spring", campaign.AtGate) // where it was
	resume()
	if end := awaitCampaign(t, f.crashFleet, "spring", campaign.Finished); end.Standings[campaign.Passed] != 12 {
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
	for _, c := range f.devices {
		if err := fleet.CanConnect(t.Context(), f.target, c.name, f.current(c)); err != nil {
			t.Errorf("device %s with certificate %.12s: %v", c.name, certificate.IDOf(f.current(c).Certificate[0]), err)
		}
	}
	f.run("audit", "verify")
	f.terminate()
}
