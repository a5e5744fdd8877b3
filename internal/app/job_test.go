package app_test

import (
	"testing"

	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/jobs"
)

// TestJobFollowsTheTopics restarts a daemon with other topics, and then with
// the former ones: each time the job of the configuration is the one that runs.
func TestJobFollowsTheTopics(t *testing.T) {
	var former config.Config
	first := start(t, func(c *config.Config) { former = *c })
	was, err := first.client.Job(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first.stop()
	same := start(t, func(c *config.Config) { c.Standalone.Data = former.Standalone.Data })
	if again, err := same.client.Job(t.Context()); err != nil || again.ID != was.ID {
		t.Fatalf("a restart made another job: %+v, %v", again, err)
	}
	same.stop()
	other := start(t, func(c *config.Config) {
		c.Standalone.Data = former.Standalone.Data
		c.MQTT.Topics.Get = "other/{thingName}/get"
		c.MQTT.Topics.GetAccepted, c.MQTT.Topics.GetRejected = "other/{thingName}/get/accepted", "other/{thingName}/get/rejected"
	})
	job, err := other.client.Job(t.Context())
	if err != nil || job.ID == was.ID || job.State != string(jobs.InProgress) {
		t.Fatalf("other topics: %+v, %v", job, err)
	}
	other.stop()
	back := start(t, func(c *config.Config) { c.Standalone.Data = former.Standalone.Data })
	job, err = back.client.Job(t.Context())
	if err != nil || job.ID != was.ID || job.State != string(jobs.InProgress) {
		t.Fatalf("the former topics again: %+v, %v", job, err)
	}
}

// TestCanceledJobStaysCanceled restarts a daemon whose job a person has
// canceled: only a person brings it back.
func TestCanceledJobStaysCanceled(t *testing.T) {
	var former config.Config
	first := start(t, func(c *config.Config) { former = *c })
	job, err := first.client.Job(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if job, err = first.client.CancelJob(t.Context(), job.ID); err != nil || job.State != string(jobs.Canceled) {
		t.Fatalf("canceled: %+v, %v", job, err)
	}
	if _, err := first.client.CancelJob(t.Context(), "certvendor-other"); err == nil {
		t.Error("a job that is not there was canceled")
	}
	first.stop()
	again := start(t, func(c *config.Config) { c.Standalone.Data = former.Standalone.Data })
	if job, err = again.client.Job(t.Context()); err != nil || job.State != string(jobs.Canceled) {
		t.Fatalf("after a restart: %+v, %v", job, err)
	}
	if job, err = again.client.EnsureJob(t.Context()); err != nil || job.State != string(jobs.InProgress) {
		t.Fatalf("ensured: %+v, %v", job, err)
	}
}
