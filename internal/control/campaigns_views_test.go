package control

import (
	"slices"
	"testing"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// rotates has a device open a rotation, and go on with it as far as is said.
func (w *world) rotates(id registry.DeviceID, state rotation.State) {
	w.t.Helper()
	journal := w.store.Journal()
	h, err := journal.Find(w.ctx, id)
	w.must(err)
	c := w.leaf(string(id))
	c.Kind, c.Standing = certificate.Rotated, certificate.Active
	r, err := journal.Open(w.ctx, rotation.Rotation{
		Device: id, Number: h.Next(), State: rotation.Intended, Key: c.Key, Profile: "default", Opened: time.Now(),
		Lease: rotation.Lease{Instance: "test", Until: time.Now().Add(rotation.LeaseTime)},
	}, h.Current())
	w.must(err)
	r.State, r.Certificate = rotation.Issued, c.ID
	r, err = journal.Advance(w.ctx, rotation.Change{Rotation: r, Certificate: &c})
	w.must(err)
	w.must(w.store.Certificates().Register(w.ctx, id, c))
	r.VendedAt, r.Lease = time.Now(), rotation.Lease{}
	for _, next := range []rotation.State{rotation.Vended, rotation.Proven, rotation.Finished} {
		r.State = next
		if next == rotation.Proven {
			r.Evidence, r.ProvenAt = certificate.Connection, time.Now()
		}
		r, err = journal.Advance(w.ctx, rotation.Change{Rotation: r})
		w.must(err)
		if next == state {
			return
		}
	}
}

// letIn applies a campaign of devices, and lets all of them in.
func (w *world) letIn(name string, devices ...registry.DeviceID) []campaign.Member {
	w.t.Helper()
	c := campaign.Campaign{Spec: campaign.Spec{Name: name, Choose: campaign.Choice{All: true}}.WithDefaults(), Devices: len(devices), Applied: time.Now()}
	var members []campaign.Member
	for i, id := range devices {
		members = append(members, campaign.Member{Device: id, Place: i, Standing: campaign.Pending})
	}
	_, err := w.store.Campaigns().Apply(w.ctx, c, members)
	w.must(err)
	members, err = w.store.Campaigns().Take(w.ctx, name, 0, nil, len(devices))
	w.must(err)
	return members
}

// TestRotationsOfALaterCampaign: what a device did in one campaign is not the doing of
// another, in which it had failed or never came to its end; or an undo of that one
// would undo this one's.
func TestRotationsOfALaterCampaign(t *testing.T) {
	w := open(t)
	w.add("failed")
	w.add("vended")
	spring := w.letIn("spring", "failed", "vended")
	w.rotates("vended", rotation.Vended)
	var found []campaign.Noted
	for i, standing := range []campaign.Standing{campaign.Failed, campaign.Vended} {
		spring[i].Standing, spring[i].Since = standing, time.Now()
		found = append(found, campaign.Noted{Member: spring[i]})
	}
	w.must(w.store.Campaigns().Mark(w.ctx, "spring", found))
	c, err := w.store.Campaigns().Find(w.ctx, "spring")
	w.must(err)
	c.State, c.Ended = campaign.Aborted, time.Now()
	_, err = w.store.Campaigns().Save(w.ctx, c)
	w.must(err)
	w.letIn("summer", "failed", "vended")
	w.rotates("failed", rotation.Finished)
	w.rotates("vended", rotation.Finished)
	numbers := func(name string) (all []int64) {
		t.Helper()
		for m, err := range w.CampaignMembers(w.ctx, name) {
			w.must(err)
			if name == "spring" && !m.Later {
				t.Errorf("%s has not rotated since", m.Device)
			}
			all = append(all, 0)
			if m.Rotation != nil {
				all[len(all)-1] = m.Rotation.Number
			}
		}
		return all
	}
	if got := numbers("spring"); !slices.Equal(got, []int64{0, 1}) {
		t.Errorf("spring has rotations %v, want none of failed and the first of vended", got)
	}
	if got := numbers("summer"); !slices.Equal(got, []int64{1, 2}) {
		t.Errorf("summer has rotations %v, want the last of both", got)
	}
}
