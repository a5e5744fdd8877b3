package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

var job = jobs.Job{ID: "job-1", Group: "group", Document: []byte(`{"a":1}`), State: jobs.InProgress}

// member adds a device to the registry and to the group.
func (w *world) member(id registry.DeviceID) {
	w.t.Helper()
	w.device(id)
	w.ok(w.Group().Add(w.ctx, id))
}

func (w *world) ensure(j jobs.Job) jobs.Job {
	w.t.Helper()
	return must[jobs.Job](w.t)(w.Jobs().Ensure(w.ctx, j))
}

func (w *world) wantReleased(limit int, want ...registry.DeviceID) {
	w.t.Helper()
	got := must[[]registry.DeviceID](w.t)(w.Jobs().Release(w.ctx, limit))
	if !slices.Equal(got, want) {
		w.t.Errorf("released %v, want %v", got, want)
	}
}

// pending lists a device's pending executions as "job/number status".
func (w *world) pending(id registry.DeviceID) string {
	w.t.Helper()
	var all []string
	for _, e := range must[[]jobs.Execution](w.t)(w.Jobs().Pending(w.ctx, id)) {
		all = append(all, fmt.Sprintf("%s/%d %s", e.JobID, e.Number, e.Status))
	}
	return strings.Join(all, ", ")
}

func (w *world) wantPending(id registry.DeviceID, want string) {
	w.t.Helper()
	if got := w.pending(id); got != want {
		w.t.Errorf("pending on %s: %q, want %q", id, got, want)
	}
}

// set has a device update its newest execution of the job.
func (w *world) set(id registry.DeviceID, status protocol.JobStatus) {
	w.t.Helper()
	_, err := w.Jobs().Update(w.ctx, id, job.ID, 0, func(e jobs.Execution) (jobs.Execution, error) {
		return e.Update(protocol.JobUpdate{Status: status}, w.clock.Now())
	})
	w.ok(err)
}

func (w *world) wantStatus(id registry.DeviceID, number int64, want protocol.JobStatus) {
	w.t.Helper()
	e := must[jobs.Execution](w.t)(w.Jobs().Execution(w.ctx, id, job.ID, number))
	if e.Status != want {
		w.t.Errorf("execution %d of %s is %s, want %s", number, id, e.Status, want)
	}
}

func TestMembersAreReleasedOldestFirst(t *testing.T) {
	w := open(t)
	w.wantReleased(9)
	w.ensure(job)
	for _, id := range []registry.DeviceID{"d3", "d1", "d2"} {
		w.member(id)
		w.clock.add(time.Second)
	}
	w.wantReleased(0)
	w.wantReleased(2, "d3", "d1")
	if n := must[int](t)(w.Jobs().InFlight(w.ctx)); n != 2 {
		t.Errorf("%d in flight, want 2", n)
	}
	w.wantReleased(9, "d2")
	w.wantReleased(9)
	e := must[jobs.Execution](t)(w.Jobs().Execution(w.ctx, "d1", job.ID, 1))
	now := start.Add(3 * time.Second)
	want := jobs.Execution{JobID: job.ID, Device: "d1", Number: 1, Status: protocol.JobQueued, Version: 1, QueuedAt: now, UpdatedAt: now}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Error(diff)
	}
}

func TestOnlyKnownDevicesAreReleased(t *testing.T) {
	w := open(t)
	w.ensure(job)
	w.ok(w.Group().Add(w.ctx, "unknown"))
	w.member("blocked")
	w.ok(w.Devices().Block(w.ctx, "blocked", true))
	w.member("d1")
	w.wantReleased(9, "d1")
	w.ok(w.Devices().Block(w.ctx, "blocked", false))
	w.device("unknown")
	w.wantReleased(9, "blocked", "unknown")
}

func TestReleaseIsOncePerMembership(t *testing.T) {
	w := open(t)
	w.ensure(job)
	w.member("d1")
	var all sync.WaitGroup
	var mu sync.Mutex
	n := 0
	for range 8 {
		all.Go(func() {
			devices, err := w.Jobs().Release(w.ctx, 5)
			mu.Lock()
			defer mu.Unlock()
			if n += len(devices); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n != 1 {
		t.Errorf("released %d times", n)
	}
}

func TestAddingAMemberAgain(t *testing.T) {
	w := open(t)
	w.ensure(job)
	w.member("d1")
	add := func() {
		t.Helper()
		w.clock.add(time.Second)
		w.ok(w.Group().Add(w.ctx, "d1"))
	}
	add()
	w.wantReleased(9, "d1")
	add() // it is queued
	w.set("d1", protocol.JobInProgress)
	add()
	w.wantReleased(9)
	w.set("d1", protocol.JobSucceeded)
	w.wantReleased(9)
	add() // it has ended, and the device is still a member
	w.wantReleased(9, "d1")
	w.wantPending("d1", "job-1/2 QUEUED")
	w.wantStatus("d1", 1, protocol.JobSucceeded)
	members := must[[]rotation.Member](t)(w.Group().Members(w.ctx, "", 0))
	if len(members) != 1 || !members[0].Since.Equal(start) {
		t.Errorf("members %+v, want d1 since it was first added", members)
	}
	w.wantEvents("d1", "device.added", "group.added")
}

func TestLeavingTheGroup(t *testing.T) {
	for name, c := range map[string]struct {
		since  time.Time
		leaves bool
	}{
		"whenever it came":       {time.Time{}, true},
		"member since before":    {start.Add(time.Second), true},
		"member since then":      {start, false},
		"added after that":       {start.Add(-time.Second), false},
		"long before it is then": {start.Add(time.Hour), true},
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t)
			w.ensure(job)
			w.member("d1")
			w.wantReleased(9, "d1")
			for range 2 {
				w.ok(w.Group().Remove(w.ctx, "d1", c.since))
			}
			members := must[[]rotation.Member](t)(w.Group().Members(w.ctx, "", 0))
			if left := len(members) == 0; left != c.leaves {
				t.Fatalf("left: %v, want %v", left, c.leaves)
			}
			want := protocol.JobQueued
			if c.leaves {
				want = protocol.JobRemoved
			}
			w.wantStatus("d1", 1, want)
		})
	}
}

func TestLeavingTheGroupWithAJobInProgress(t *testing.T) {
	w := open(t)
	w.ensure(job)
	w.member("d1")
	w.wantReleased(9, "d1")
	w.set("d1", protocol.JobInProgress)
	w.ok(w.Group().Remove(w.ctx, "d1", time.Time{}))
	w.wantPending("d1", "job-1/1 IN_PROGRESS")
	w.set("d1", protocol.JobSucceeded)
	// Another membership, another execution.
	w.ok(w.Group().Add(w.ctx, "d1"))
	w.wantReleased(9, "d1")
	w.wantPending("d1", "job-1/2 QUEUED")
}

func TestMembersByPage(t *testing.T) {
	w := open(t)
	for i := range 5 {
		w.ok(w.Group().Add(w.ctx, registry.DeviceID(fmt.Sprintf("d%d", i))))
	}
	page := must[[]rotation.Member](t)(w.Group().Members(w.ctx, "d1", 2))
	if len(page) != 2 || page[0].Device != "d2" || page[1].Device != "d3" {
		t.Errorf("page %+v", page)
	}
}

func TestEnsure(t *testing.T) {
	w := open(t)
	_, err := w.Jobs().Status(w.ctx)
	w.is(err, store.ErrNoJob)
	made := w.ensure(job)
	want := job
	want.Created = start
	if diff := cmp.Diff(want, made); diff != "" {
		t.Error(diff)
	}
	w.clock.add(time.Hour)
	if diff := cmp.Diff(want, w.ensure(job)); diff != "" {
		t.Error(diff)
	}
	document := must[[]byte](t)(w.Jobs().Document(w.ctx, job.ID))
	if string(document) != string(job.Document) {
		t.Errorf("document %s", document)
	}
	_, err = w.Jobs().Document(w.ctx, "other")
	w.is(err, store.ErrNoJob)
}

func TestAnotherDocumentIsAnotherJob(t *testing.T) {
	w := open(t)
	w.ensure(job)
	for _, id := range []registry.DeviceID{"done", "queued", "running", "waiting"} {
		w.member(id)
		w.clock.add(time.Second)
	}
	w.wantReleased(3, "done", "queued", "running")
	w.set("done", protocol.JobSucceeded)
	w.set("running", protocol.JobInProgress)
	other := jobs.Job{ID: "job-2", Group: "group", Document: []byte(`{"a":2}`), State: jobs.InProgress}
	w.ensure(other)
	w.wantStatus("queued", 1, protocol.JobCanceled)
	w.wantPending("running", "job-1/1 IN_PROGRESS")
	status := must[jobs.Status](t)(w.Jobs().Status(w.ctx))
	if status.Job.ID != other.ID || status.Waiting != 4 || len(status.Executions) != 0 {
		t.Errorf("status %+v", status)
	}
	w.wantReleased(9, "waiting", "done", "queued", "running")
	w.wantPending("running", "job-1/1 IN_PROGRESS, job-2/1 QUEUED")
	if n := must[int](t)(w.Jobs().InFlight(w.ctx)); n != 5 {
		t.Errorf("%d in flight, want 5", n)
	}
	// Back to the first: it goes on, and everybody gets it anew.
	if back := w.ensure(job); back.State != jobs.InProgress {
		t.Errorf("the first job is %s", back.State)
	}
	w.wantReleased(9, "done", "queued", "running", "waiting")
	w.wantPending("done", "job-1/2 QUEUED")
}

func TestCancelAndResume(t *testing.T) {
	w := open(t)
	w.is(w.Jobs().Cancel(w.ctx, job.ID), store.ErrNoJob)
	w.is(w.Jobs().Resume(w.ctx, job.ID), store.ErrNoJob)
	w.ensure(job)
	w.member("queued")
	w.member("running")
	w.wantReleased(9, "queued", "running")
	w.member("waiting")
	w.set("running", protocol.JobInProgress)
	for range 2 {
		w.ok(w.Jobs().Cancel(w.ctx, job.ID))
	}
	status := must[jobs.Status](t)(w.Jobs().Status(w.ctx))
	want := map[protocol.JobStatus]int{protocol.JobCanceled: 1, protocol.JobInProgress: 1}
	if diff := cmp.Diff(want, status.Executions); diff != "" || status.Job.State != jobs.Canceled || status.Waiting != 1 {
		t.Errorf("status %+v: %s", status, diff)
	}
	w.wantReleased(9)
	if j := w.ensure(job); j.State != jobs.Canceled {
		t.Errorf("ensuring a canceled job makes it %s", j.State)
	}
	w.clock.add(time.Second)
	for range 2 {
		w.ok(w.Jobs().Resume(w.ctx, job.ID))
	}
	w.wantReleased(9, "waiting", "queued")
	w.wantPending("queued", "job-1/2 QUEUED")
}

func TestPendingIsInOrder(t *testing.T) {
	w := open(t)
	w.wantPending("d1", "")
	w.member("d1")
	for i := range 3 {
		w.ensure(jobs.Job{ID: fmt.Sprintf("job-%d", i), Document: []byte(`{}`)})
		w.wantReleased(9, "d1")
		w.clock.add(time.Second)
		if i == 1 {
			w.set("d1", protocol.JobInProgress)
		}
	}
	w.wantPending("d1", "job-1/1 IN_PROGRESS, job-2/1 QUEUED")
}

func TestUpdateIsAtomic(t *testing.T) {
	w := open(t)
	w.ensure(job)
	w.member("d1")
	w.wantReleased(9, "d1")
	w.many(50, func(i int) error {
		_, err := w.Jobs().Update(w.ctx, "d1", job.ID, 1, func(e jobs.Execution) (jobs.Execution, error) {
			return e.Update(protocol.JobUpdate{
				Status: protocol.JobInProgress, StatusDetails: map[string]string{"step": fmt.Sprint(i)},
			}, w.clock.Now())
		})
		return err
	})
	if e := must[jobs.Execution](t)(w.Jobs().Execution(w.ctx, "d1", job.ID, 0)); e.Version != 51 || len(e.Details) != 1 {
		t.Errorf("after 50 updates: %+v", e)
	}
}

func TestRefusedUpdateChangesNothing(t *testing.T) {
	w := open(t)
	w.ensure(job)
	w.member("d1")
	w.wantReleased(9, "d1")
	refused := errors.New("no")
	_, err := w.Jobs().Update(w.ctx, "d1", job.ID, 0, func(e jobs.Execution) (jobs.Execution, error) {
		e.Status = protocol.JobFailed
		return e, refused
	})
	if err != refused {
		t.Errorf("got %v, want the error as it is", err)
	}
	w.wantStatus("d1", 1, protocol.JobQueued)
	keep := func(e jobs.Execution) (jobs.Execution, error) { return e, nil }
	for name, call := range map[string]func() error{
		"device": func() error { _, err := w.Jobs().Update(w.ctx, "d2", job.ID, 0, keep); return err },
		"job":    func() error { _, err := w.Jobs().Update(w.ctx, "d1", "other", 0, keep); return err },
		"number": func() error { _, err := w.Jobs().Update(w.ctx, "d1", job.ID, 2, keep); return err },
		"read":   func() error { _, err := w.Jobs().Execution(w.ctx, "d1", job.ID, 2); return err },
	} {
		if err := call(); !errors.Is(err, store.ErrNoExecution) {
			t.Errorf("another %s: %v", name, err)
		}
	}
}

func TestTimeOut(t *testing.T) {
	w := open(t)
	w.ensure(job)
	for _, id := range []registry.DeviceID{"early", "late", "queued"} {
		w.member(id)
		w.clock.add(time.Second)
	}
	w.wantReleased(9, "early", "late", "queued")
	w.set("early", protocol.JobInProgress)
	w.clock.add(time.Minute)
	before := w.clock.Now()
	w.set("late", protocol.JobInProgress)
	for _, want := range [][]registry.DeviceID{{"early"}, nil} {
		got := must[[]registry.DeviceID](t)(w.Jobs().TimeOut(w.ctx, before))
		if !slices.Equal(got, want) {
			t.Errorf("timed out %v, want %v", got, want)
		}
	}
	w.wantStatus("early", 1, protocol.JobTimedOut)
	w.wantStatus("late", 1, protocol.JobInProgress)
	if n := must[int](t)(w.Jobs().InFlight(w.ctx)); n != 2 {
		t.Errorf("%d in flight, want 2", n)
	}
}

func TestRemovedDeviceHasNoQueuedJob(t *testing.T) {
	w := open(t)
	w.ensure(job)
	w.member("d1")
	w.wantReleased(9, "d1")
	w.ok(w.Devices().Remove(w.ctx, "d1"))
	w.wantStatus("d1", 1, protocol.JobRemoved)
}

func TestRemovedDeviceTakesNoPlaceInFlight(t *testing.T) {
	w := open(t)
	w.ensure(job)
	w.member("d1")
	w.wantReleased(9, "d1")
	w.set("d1", protocol.JobInProgress)
	w.ok(w.Devices().Remove(w.ctx, "d1"))
	w.wantStatus("d1", 1, protocol.JobRemoved)
	inFlight, err := w.Jobs().InFlight(w.ctx)
	if err != nil || inFlight != 0 {
		t.Errorf("%d in flight, %v", inFlight, err)
	}
}

func TestDevicesThatSleepTakeNoPlaceInFlight(t *testing.T) {
	w := open(t)
	w.ensure(job)
	for _, id := range []registry.DeviceID{"asleep", "slow", "gone"} {
		w.member(id)
	}
	w.wantReleased(9, "asleep", "gone", "slow")
	w.set("slow", protocol.JobInProgress)
	inFlight := func() int { return must[int](t)(w.Jobs().InFlight(w.ctx)) }
	if n := inFlight(); n != 3 {
		t.Errorf("%d in flight, want 3", n)
	}
	w.clock.add(11 * time.Minute)
	if n := inFlight(); n != 1 {
		t.Errorf("%d in flight after a while, want the one that is at work", n)
	}
	w.set("asleep", protocol.JobInProgress)
	w.kill()
	if n := inFlight(); n != 2 {
		t.Errorf("%d in flight after one has woken, want 2", n)
	}
}

// Those who sleep would otherwise take the places of all others until the time comes
// at which their jobs were queued.
func TestDevicesQueuedByAClockThatRanAheadTakeNoPlaceInFlight(t *testing.T) {
	const ahead = 365 * 24 * time.Hour
	w := open(t)
	w.ensure(job)
	w.member("asleep")
	w.clock.add(ahead)
	w.wantReleased(9, "asleep")
	inFlight := func() int { return must[int](t)(w.Jobs().InFlight(w.ctx)) }
	if n := inFlight(); n != 1 {
		t.Errorf("%d in flight, want 1", n)
	}
	w.clock.add(-ahead)
	if n := inFlight(); n != 0 {
		t.Errorf("%d in flight once the clock was put right, want none", n)
	}
}

func TestWhoWaitsForAJob(t *testing.T) {
	w := open(t)
	w.ensure(job)
	want := func(waits bool) {
		t.Helper()
		if is := must[bool](t)(w.Jobs().Waits(w.ctx)); is != waits {
			t.Errorf("somebody waits: %t, want %t", is, waits)
		}
	}
	want(false)
	w.ok(w.Group().Add(w.ctx, "unknown"))
	want(false)
	w.member("d1")
	w.ok(w.Devices().Block(w.ctx, "d1", true))
	want(false)
	w.ok(w.Devices().Block(w.ctx, "d1", false))
	want(true)
	w.wantReleased(9, "d1")
	want(false)
}

// TestMemberOfAClockThatRanAhead leaves with its rotation all the same, and what it
// had of the job then is not its newest.
func TestMemberOfAClockThatRanAhead(t *testing.T) {
	const ahead = 365 * 24 * time.Hour
	w := open(t)
	w.ensure(job)
	w.clock.add(ahead)
	for _, id := range []registry.DeviceID{"d1", "d2"} {
		w.member(id)
		w.wantReleased(9, id)
	}
	w.set("d2", protocol.JobFailed)
	w.clock.add(-ahead)
	w.ok(w.Group().Remove(w.ctx, "d1", w.clock.Now()))
	if members := must[[]rotation.Member](t)(w.Group().Members(w.ctx, "", 9)); len(members) != 1 {
		t.Errorf("members %v, want d2", members)
	}
	for range 3 { // it waits, has its job, and has it still
		w.ok(w.Group().Add(w.ctx, "d2"))
		w.clock.add(time.Second)
		w.ok(w.Group().Add(w.ctx, "d2"))
		_ = must[[]registry.DeviceID](t)(w.Jobs().Release(w.ctx, 9))
	}
	w.wantPending("d2", "job-1/2 QUEUED")
}

// TestInProgressByAClockThatRanAhead: what a device began then, and never ended, takes
// a place in flight no longer than another's.
func TestInProgressByAClockThatRanAhead(t *testing.T) {
	const ahead, day = 365 * 24 * time.Hour, 24 * time.Hour
	w := open(t)
	w.ensure(job)
	begins := func(id registry.DeviceID) {
		w.member(id)
		w.wantReleased(9, id)
		w.set(id, protocol.JobInProgress)
	}
	w.clock.add(ahead)
	begins("d1")
	w.clock.add(-ahead)
	begins("d2")
	timedOut := func() []registry.DeviceID {
		return must[[]registry.DeviceID](t)(w.Jobs().TimeOut(w.ctx, w.clock.Now().Add(-day)))
	}
	if got := timedOut(); len(got) != 1 || got[0] != "d1" {
		t.Errorf("timed out: %v, want d1", got)
	}
	if got := timedOut(); len(got) != 0 {
		t.Errorf("timed out: %v, want none", got)
	}
}
