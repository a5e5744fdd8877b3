package main

import (
	"bytes"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/control"
)

// TestForecast holds the end that a plan foretells against the end that the
// campaign then comes to: 1,000 devices that are online, in a canary and two
// waves, at a pace that the campaign sets and not the machine. It takes four
// minutes, with LONG_TESTS=1.
func TestForecast(t *testing.T) {
	if os.Getenv("LONG_TESTS") == "" {
		t.Skip("takes four minutes: set LONG_TESTS=1")
	}
	const devices = 1000
	d := newProcess(t)
	d.start()
	d.ready()
	played := onlineFleet(d, devices)
	spec := campaign.Spec{
		Name: "spring", Choose: campaign.Choice{All: true}, Canary: campaign.Canary{Size: campaign.Share{Count: 20}},
		Waves: []campaign.Share{{Percent: 30}}, PerMinute: 400, Soak: 5 * time.Second,
	}
	plan, err := d.client.PlanCampaign(t.Context(), spec)
	if err != nil || plan.Devices != devices {
		t.Fatalf("a plan for %d devices, %v", plan.Devices, err)
	}
	if _, err := d.client.ApplyCampaign(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	c := awaitEnd(d, "spring")
	took := c.Ended.Sub(c.Applied).Seconds()
	t.Logf("%d devices in waves of %v, %.0f a minute by %s: foretold %.1f s, took %.1f s, ratio %.3f; load %s",
		plan.Devices, plan.Waves, plan.Pace, plan.Limit, plan.Seconds, took, took/plan.Seconds, load())
	if c.State != campaign.Finished || c.Standings[campaign.Passed] != devices {
		t.Errorf("it ended %s (%s): %v", c.State, c.Why, c.Standings)
	}
	if ratio := took / plan.Seconds; ratio < 0.9 || ratio > 1.1 {
		t.Errorf("the plan was not within 10 %%: %.1f s foretold, %.1f s taken", plan.Seconds, took)
	}
	played()
	d.terminate()
}

// onlineFleet starts devices that wait for their jobs, and returns once all of
// them are there; what it returns waits until they have ended.
func onlineFleet(d *process, n int) (wait func()) {
	d.t.Helper()
	var out bytes.Buffer
	cmd := d.certvendor("simulate", "--devices", strconv.Itoa(n), "--concurrency", strconv.Itoa(n), "--await-job", "--stay", "25s", "--keep", "--json")
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	ended := false
	d.t.Cleanup(func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	for limit := time.Now().Add(5 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		there := 0
		for fleet, err := range d.client.Fleet(d.t.Context(), control.FleetQuery{}).All() {
			if err == nil && fleet.Connected {
				there++
			}
		}
		if there >= n {
			break
		}
		if time.Now().After(limit) {
			d.t.Fatalf("only %d devices are connected:\n%s", there, out.String())
		}
	}
	return func() {
		d.t.Helper()
		ended = true
		if err := cmd.Wait(); err != nil {
			d.t.Errorf("the devices ended with %v:\n%s", err, out.String())
		}
	}
}

// awaitEnd waits until a campaign has ended.
func awaitEnd(d *process, name string) control.Campaign {
	d.t.Helper()
	for limit := time.Now().Add(15 * time.Minute); ; time.Sleep(500 * time.Millisecond) {
		c, err := d.client.Campaign(d.t.Context(), name)
		if err != nil {
			d.t.Fatal(err)
		}
		if c.State.Ended() {
			return c
		}
		if time.Now().After(limit) {
			d.t.Fatalf("campaign %s does not end: %+v", name, c)
		}
	}
}
