package app_test

import (
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/control"
)

// A campaign lets nobody in while the job is canceled, says why, and goes on by
// itself when the job is back.
func TestCampaignHoldsWhileTheJobIsCanceled(t *testing.T) {
	w := start(t, nil)
	w.actor(t, "lamp")
	job, err := w.client.Job(t.Context())
	if err == nil {
		_, err = w.client.CancelJob(t.Context(), job.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.ApplyCampaign(t.Context(), campaign.Spec{Name: "spring", Choose: campaign.Choice{All: true}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it holds", func() bool {
		c, err := w.client.Campaign(t.Context(), "spring")
		return err == nil && strings.Contains(c.Holding, "the job is canceled") && c.Standings[campaign.Pending] == 1
	})
	if _, err := w.client.EnsureJob(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes on", func() bool {
		c, err := w.client.Campaign(t.Context(), "spring")
		return err == nil && c.Holding == "" && c.Standings[campaign.Added] == 1
	})
}

// A campaign that runs puts back who is taken out of the group, whether the device
// has its job or waits for it, and whoever takes it out is told so; one that is
// paused does so when it goes on.
func TestCampaignPutsBack(t *testing.T) {
	w := start(t, func(c *config.Config) { c.Rotation.MaxInFlight = 1 })
	w.actor(t, "first")
	w.actor(t, "second")
	if _, err := w.client.ApplyCampaign(t.Context(), campaign.Spec{Name: "spring", Choose: campaign.Choice{All: true}}); err != nil {
		t.Fatal(err)
	}
	grouped := func() (names []string) {
		for m, err := range w.client.Members(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, m.Device)
		}
		return names
	}
	together := func() bool {
		job, err := w.client.Job(t.Context())
		return err == nil && job.Waiting == 1 && len(grouped()) == 2
	}
	leave := func() (warned int) {
		err := w.client.Leave(t.Context(), []string{"first", "second"}, func(o control.Outcome) {
			if strings.Contains(o.Warning, "is put back by campaign spring") {
				warned++
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return warned
	}
	eventually(t, "one has its job, and one waits", together)
	if n := leave(); n != 2 {
		t.Errorf("said of %d that they are put back", n)
	}
	eventually(t, "both are put back", together)
	steer := func(verb string) {
		if _, err := w.client.SteerCampaign(t.Context(), "spring", verb); err != nil {
			t.Fatal(err)
		}
	}
	steer("pause")
	if n := leave(); n != 0 || len(grouped()) > 0 {
		t.Errorf("said of %d that they are put back; %v", n, grouped())
	}
	steer("resume")
	eventually(t, "both are put back again", together)
}

// A plan says what would come of applying it.
func TestPlanOfWhatIsNotToBeApplied(t *testing.T) {
	w := start(t, nil)
	w.actor(t, "lamp")
	spec := campaign.Spec{Name: "spring", Choose: campaign.Choice{Names: []string{"lamp", "lanp", "stays"}, Except: []string{"stays"}}}
	plan, err := w.client.PlanCampaign(t.Context(), spec)
	if err != nil || plan.Devices != 1 || plan.Skipped["is not known"] != 1 || len(plan.Risks) > 0 && strings.Contains(plan.Risks[0].What, "there already") {
		t.Errorf("%+v, %v", plan, err)
	}
	if _, err := w.client.ApplyCampaign(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	plan, err = w.client.PlanCampaign(t.Context(), spec)
	if err != nil || len(plan.Risks) == 0 || !strings.Contains(plan.Risks[len(plan.Risks)-1].What, "campaign spring is there already") {
		t.Errorf("%+v, %v", plan, err)
	}
	spec.Name, spec.Deadline = "past", time.Now().Add(-time.Minute)
	if plan, err := w.client.PlanCampaign(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "has passed") {
		t.Errorf("%+v, %v", plan, err)
	}
	if made, err := w.client.ApplyCampaign(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "has passed") {
		t.Errorf("%+v, %v", made, err)
	}
}
