package backendtest

import (
	"slices"
	"testing"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// groupScenarios are about the group and its job, as ports.
func groupScenarios() []scenario {
	return []scenario{
		{"case_84_85_one_job_however_often_it_is_ensured", oneJob},
		{"case_86_other_topics_are_another_job", otherTopics},
		{"case_79_three_hundred_certificates_are_all_considered", manyCertificates},
		{"members_by_name_and_page", memberPages},
	}
}

func oneJob(t *testing.T, open Open) {
	r := start(t, open)
	job := jobs.New("group", protocol.DefaultTopics())
	for range 3 {
		got, err := r.world.Backend.Jobs.Ensure(r.ctx, job)
		r.must(err)
		if got.ID != job.ID || got.State != jobs.InProgress || !slices.Equal(got.Document, job.Document) {
			t.Fatalf("got job %+v", got)
		}
		r.Crash()
	}
	status, err := r.world.Backend.Jobs.Status(r.ctx)
	r.must(err)
	if status.Job.ID != job.ID || status.Job.State != jobs.InProgress {
		t.Errorf("status %+v", status)
	}
}

func otherTopics(t *testing.T, open Open) {
	r := start(t, open)
	ensure := func(topics protocol.Topics) jobs.Job {
		t.Helper()
		job, err := r.world.Backend.Jobs.Ensure(r.ctx, jobs.New("group", topics))
		r.must(err)
		return job
	}
	topics := protocol.DefaultTopics()
	first := ensure(topics)
	topics.Get, topics.GetAccepted, topics.GetRejected = "f/{thingName}/get", "f/{thingName}/get/accepted", "f/{thingName}/get/rejected"
	second := ensure(topics)
	if first.ID == second.ID {
		t.Error("other topics are the same job")
	}
	status, err := r.world.Backend.Jobs.Status(r.ctx)
	r.must(err)
	if status.Job.ID != second.ID {
		t.Errorf("the group's job is %s, want %s", status.Job.ID, second.ID)
	}
	r.must(r.world.Backend.Jobs.Cancel(r.ctx, second.ID))
	r.must(r.world.Backend.Jobs.Cancel(r.ctx, second.ID))
}

func manyCertificates(t *testing.T, open Open) {
	many := 300
	r := start(t, open, scope(rotation.All, certificate.Deactivate))
	if r.world.Slow {
		many = 40
	}
	d := r.Device("d")
	for range many {
		d.Given(certificate.Adopted)
	}
	next := d.Take(d.First)
	d.Overwrite(next)
	d.Ack(next).OK()
	active := 0
	for _, h := range d.held() {
		if h.Standing == certificate.Active {
			active++
		}
	}
	if held := len(d.held()); held != many+2 || active != 1 {
		t.Errorf("%d held, %d active; want %d and 1", held, active, many+2)
	}
}

func memberPages(t *testing.T, open Open) {
	r := start(t, open)
	group := r.world.Backend.Group
	var want []registry.DeviceID
	for i := range 25 {
		d := r.stranger(deviceName(i))
		r.must(r.world.Backend.Registrar.Add(r.ctx, d.ID, nil))
		r.must(group.Add(r.ctx, d.ID))
		r.must(group.Add(r.ctx, d.ID))
		want = append(want, d.ID)
	}
	var got []registry.DeviceID
	var after registry.DeviceID
	for {
		page, err := group.Members(r.ctx, after, 10)
		r.must(err)
		if len(page) == 0 {
			break
		}
		for _, m := range page {
			got = append(got, m.Device)
			after = m.Device
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("members %v", got)
	}
	r.must(group.Remove(r.ctx, want[0], r.clock.Now().Add(-tick))) // came later than that
	if !r.members()[want[0]] {
		t.Error("a newer membership was ended")
	}
	r.clock.Advance(tick)
	r.must(group.Remove(r.ctx, want[0], r.clock.Now()))
	r.must(group.Remove(r.ctx, want[0], r.clock.Now()))
	if r.members()[want[0]] {
		t.Error("an older membership was not ended")
	}
}
