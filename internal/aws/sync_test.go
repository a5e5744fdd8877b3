package aws

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

// hold makes a certificate that things of the fake hold.
func (f *fakeIoT) hold(t *testing.T, w *World, clock *backendtest.Clock, things ...string) certificate.ID {
	t.Helper()
	c := signed(t, w, clock)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pems[string(c.ID)] = c.PEM()
	for _, thing := range things {
		f.principals[thing] = append(f.principals[thing], fakeARN+"cert/"+string(c.ID))
	}
	return c.ID
}

// sync begins a sync, and works until nothing is left.
func (w *World) sync(t *testing.T, order SyncOrder) SyncState {
	t.Helper()
	if _, err := w.syncer.Begin(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	if err := w.syncer.work(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w.syncer.State()
}

// holders returns what is in the store: device/first digits/standing.
func (w *World) holders(t *testing.T) []string {
	t.Helper()
	list, err := w.store.Certificates().List(t.Context(), certificate.Query{})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, h := range list {
		all = append(all, fmt.Sprintf("%s/%.8s/%s", h.Device, h.ID, h.Standing))
	}
	slices.Sort(all)
	return all
}

func want(t *testing.T, what string, got, want []string) {
	t.Helper()
	want = slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

func held(device string, id certificate.ID, standing certificate.Standing) string {
	return fmt.Sprintf("%s/%.8s/%s", device, id, standing)
}

// count returns how many of the calls contain a text.
func count(calls []string, text string) (n int) {
	for _, call := range calls {
		if strings.Contains(call, text) {
			n++
		}
	}
	return n
}

// TestSync: everything is taken in, whichever way is shorter, and then only
// what is new or has changed.
func TestSync(t *testing.T) {
	for name, extra := range map[string]int{"by certificate": 9, "by thing": 0} {
		t.Run(name, func(t *testing.T) {
			fake, clock := newFake(), noon()
			w := fake.open(t, clock)
			fake.things = []string{"a", "b", "c", "d", "not a device"}
			for i := range extra {
				fake.things = append(fake.things, fmt.Sprintf("bare-%d", i))
			}
			own, second := fake.hold(t, w, clock, "a"), fake.hold(t, w, clock, "a")
			shared, orphan := fake.hold(t, w, clock, "b", "c"), fake.hold(t, w, clock)
			off := fake.hold(t, w, clock, "d")
			third := fake.hold(t, w, clock, "a")
			fake.status[string(off)] = "INACTIVE"
			fake.called()

			state := w.sync(t, SyncOrder{Source: SyncAll})
			found := map[bool]int{false: 6, true: 5}[extra == 0] // certificates, or four things and what none has
			if state.Phase != SyncDone || state.Read != state.Total || state.Found[store.FoundNew] != found || state.Failed > 0 {
				t.Errorf("state %+v", state)
			}
			if state.ByThing != (extra == 0) {
				t.Errorf("by thing: %t", state.ByThing)
			}
			on := certificate.Active
			all := []string{
				held("a", own, on), held("a", second, on), held("a", third, on), held("b", shared, on), held("c", shared, on),
				held("", orphan, on), held("d", off, certificate.Inactive),
			}
			want(t, "the inventory", w.holders(t), all)
			devices, err := w.registry.List(t.Context(), registry.Query{})
			if err != nil || len(devices) != 4+extra || devices[0].Attributes["site"] != "here" {
				t.Errorf("devices %v, %v", devices, err)
			}
			calls := fake.called()
			if n := count(calls, "GET /certificates/"); n < 6 || n > 7 { // things that share one may ask both
				t.Errorf("%d certificates were described, not each once", n)
			}
			if n := count(calls, "principals-v2"); (n > 0) != state.ByThing {
				t.Errorf("%d things were asked what they hold", n)
			}

			if again := w.sync(t, SyncOrder{Source: SyncAll}); again.Total != 0 {
				t.Errorf("read again: %+v", again)
			}
			if n := count(fake.called(), "GET /certificates/"); n != 0 {
				t.Errorf("%d certificates that are known were described", n)
			}
			// A new certificate, a new thing with a known one, and one that was switched off.
			added := fake.hold(t, w, clock, "b")
			fake.mu.Lock()
			fake.things = append(fake.things, "e")
			fake.principals["e"] = []string{fakeARN + "cert/" + string(own)}
			fake.status[string(second)] = "INACTIVE"
			fake.mu.Unlock()
			clock.Advance(2 * clockStep)
			state = w.sync(t, SyncOrder{Source: SyncAll})
			if state.Total != 3 || !maps.Equal(state.Found, map[store.Found]int{store.FoundNew: 2, store.FoundOff: 1}) {
				t.Errorf("state %+v", state)
			}
			all = append(all, held("b", added, on), held("e", own, on))
			all[1] = held("a", second, certificate.Inactive)
			want(t, "the inventory", w.holders(t), all)
			// And on again: what is INACTIVE because AWS had it so.
			fake.mu.Lock()
			delete(fake.status, string(second))
			delete(fake.pems, string(third))
			fake.mu.Unlock()
			clock.Advance(2 * clockStep)
			state = w.sync(t, SyncOrder{Source: SyncAll, Full: true})
			all[1] = held("a", second, on)
			want(t, "the inventory", w.holders(t), all)
		})
	}
}

// clockStep is longer than what was just written keeps others from writing.
const clockStep = 61_000_000_000

// TestSyncGoesOn: a daemon that is killed at any call reads the rest, and little
// twice.
func TestSyncGoesOn(t *testing.T) {
	const certificates = 40
	for kill := 1; kill < 130; kill += 9 {
		fake, clock := newFake(), noon()
		fake.page = 15
		w := fake.open(t, clock)
		var all []string
		for i := range certificates {
			thing := fmt.Sprintf("thing-%02d", i)
			fake.things = append(fake.things, thing)
			all = append(all, held(thing, fake.hold(t, w, clock, thing), certificate.Active))
		}
		dying, die := context.WithCancel(t.Context())
		if _, err := w.syncer.Begin(dying, SyncOrder{Source: SyncAll}); err != nil {
			t.Fatal(err)
		}
		fake.mu.Lock()
		fake.onCall = func(n int) {
			if n == kill {
				die()
			}
		}
		fake.calls = nil
		fake.mu.Unlock()
		_ = w.syncer.work(dying)
		die()
		fake.mu.Lock()
		fake.onCall = nil
		fake.mu.Unlock()
		w.syncer = newSyncer(w) // which knows what is durable
		w.inventory.views = newRecent[registry.DeviceID, view](viewKept, remembering, clock.Now)
		if err := errors.Join(w.syncer.load(t.Context()), w.syncer.work(t.Context())); err != nil {
			t.Fatal(err)
		}
		if state := w.syncer.State(); state.Phase != SyncDone || state.Read != certificates {
			t.Errorf("killed at %d: state %+v", kill, state)
		}
		want(t, fmt.Sprintf("killed at %d", kill), w.holders(t), all)
		if n := count(fake.called(), "GET /certificates/"); n > certificates+readPage {
			t.Errorf("killed at %d: %d certificates were described", kill, n)
		}
	}
}

// TestSyncWaitsForAWS: while AWS answers nobody nothing is given up.
func TestSyncWaitsForAWS(t *testing.T) {
	fake, clock := newFake(), noon()
	w := fake.open(t, clock)
	fake.things = []string{"a"}
	id := fake.hold(t, w, clock, "a")
	if _, err := w.syncer.Begin(t.Context(), SyncOrder{Source: SyncAll}); err != nil {
		t.Fatal(err)
	}
	for range readTries + 1 {
		fake.mu.Lock()
		fake.throttle = attempts
		fake.mu.Unlock()
		if err := w.syncer.work(t.Context()); err == nil || w.syncer.State().Why == "" {
			t.Fatalf("it went on: %+v", w.syncer.State())
		}
	}
	if err := w.syncer.work(t.Context()); err != nil {
		t.Fatal(err)
	}
	if state := w.syncer.State(); state.Phase != SyncDone || state.Why != "" {
		t.Errorf("state %+v", state)
	}
	want(t, "the inventory", w.holders(t), []string{held("a", id, certificate.Active)})
}

// TestSyncOfOneThatFails: one that cannot be read keeps nobody else out.
func TestSyncOfOneThatFails(t *testing.T) {
	fake, clock := newFake(), noon()
	w := fake.open(t, clock)
	fake.things = []string{"a"}
	id := fake.hold(t, w, clock, "a")
	const broken = "feedfeedfeedfeedfeedfeedfeedfeedfeedfeedfeedfeedfeedfeedfeedfeed"
	fake.pems[broken] = "no PEM"
	state := w.sync(t, SyncOrder{Source: SyncAll})
	if state.Phase != SyncDone || state.Failed != 1 || !strings.Contains(state.Why, broken) {
		t.Errorf("state %+v", state)
	}
	want(t, "the inventory", w.holders(t), []string{held("a", id, certificate.Active)})
}

// TestSyncSources: what a faster source names is read, and nothing else.
func TestSyncSources(t *testing.T) {
	fake, clock := newFake(), noon()
	w := fake.open(t, clock)
	fake.things = []string{"a", "b", "c", "d"}
	fake.others = map[string]int{"b": 12}
	ids := map[string]certificate.ID{}
	for _, thing := range fake.things {
		ids[thing] = fake.hold(t, w, clock, thing)
	}
	fake.findings = []string{string(ids["a"]), string(ids["a"])}
	if state := w.sync(t, SyncOrder{Source: SyncDefender}); state.Total != 1 || state.Listed["findings"] != 2 {
		t.Errorf("state %+v", state)
	}
	all := []string{held("a", ids["a"], certificate.Active)}
	want(t, "from Device Defender", w.holders(t), all)
	w.sync(t, SyncOrder{Source: SyncIndex, Query: "thingName:b"})
	all = append(all, held("b", ids["b"], certificate.Active))
	want(t, "from the index", w.holders(t), all)
	if n, err := w.store.Devices().Crowded(t.Context(), "b"); n != 12 || err != nil {
		t.Errorf("b is in %d groups, %v", n, err)
	}
	err := w.syncer.Name(t.Context(), []store.Todo{
		{What: store.TodoDevice, Name: "c"}, {What: store.TodoCertificate, Name: string(ids["d"])},
	})
	if err != nil {
		t.Fatal(err)
	}
	if state := w.sync(t, SyncOrder{Source: SyncNames}); state.Total != 2 || !state.Whole.IsZero() {
		t.Errorf("state %+v", state)
	}
	all = append(all, held("c", ids["c"], certificate.Active), held("d", ids["d"], certificate.Active))
	want(t, "by name", w.holders(t), all)
}

// TestSyncIsStopped: and joined, and refused beside another.
func TestSyncIsStopped(t *testing.T) {
	fake, clock := newFake(), noon()
	w := fake.open(t, clock)
	fake.things = []string{"a"}
	fake.hold(t, w, clock, "a")
	order := SyncOrder{Source: SyncAll}
	for range 2 {
		if _, err := w.syncer.Begin(t.Context(), order); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.syncer.Begin(t.Context(), SyncOrder{Source: SyncIndex}); err == nil {
		t.Error("two at a time")
	}
	behind := w.syncer.State() // as a step has it that is at work
	for range 2 {
		if state, err := w.syncer.Stop(t.Context()); err != nil || state.Phase != SyncStopped {
			t.Errorf("%+v, %v", state, err)
		}
	}
	if err := w.syncer.finish(t.Context(), &behind); !errors.Is(err, store.ErrOvertaken) || w.syncer.State().Phase != SyncStopped {
		t.Errorf("a step that has begun before it was stopped: %v, and it is %q", err, w.syncer.State().Phase)
	}
	if err := w.syncer.work(t.Context()); err != nil || len(fake.called()) > 0 {
		t.Errorf("it went on: %v", err)
	}
	if state := w.sync(t, order); state.Phase != SyncDone || state.Read != 1 {
		t.Errorf("state %+v", state)
	}
}

// TestRemovedStaysRemoved: a device that a person took out does not come back,
// and a certificate that was taken from a device is not given back.
func TestRemovedStaysRemoved(t *testing.T) {
	fake, clock := newFake(), noon()
	w := fake.open(t, clock)
	fake.things = []string{"a", "b"}
	a, b := fake.hold(t, w, clock, "a"), fake.hold(t, w, clock, "b")
	w.sync(t, SyncOrder{Source: SyncAll})
	if err := w.registry.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	err := w.store.Certificates().Retire(t.Context(), certificate.Removal{
		Device: "b", Certificate: b, Mode: certificate.Deactivate, Allowed: func([]certificate.Holding) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	clock.Advance(2 * clockStep)
	state := w.sync(t, SyncOrder{Source: SyncAll, Full: true})
	if state.Strange != 1 || state.Found[store.FoundLeft] != 1 {
		t.Errorf("state %+v", state)
	}
	want(t, "the inventory", w.holders(t), []string{held("a", a, certificate.Active), held("b", b, certificate.Inactive)})
	devices, err := w.registry.List(t.Context(), registry.Query{})
	if err != nil || len(devices) != 1 || devices[0].ID != "b" {
		t.Errorf("devices %v, %v", devices, err)
	}
}

// TestSpeaksAgain: a device whose certificate AWS had INACTIVE when it was read
// is believed once AWS has it ACTIVE.
func TestSpeaksAgain(t *testing.T) {
	fake, clock := newFake(), noon()
	w := fake.open(t, clock)
	fake.things = []string{"a"}
	id := fake.hold(t, w, clock, "a")
	fake.status[string(id)] = "INACTIVE"
	w.sync(t, SyncOrder{Source: SyncAll})
	speaks := certificate.Sighting{Device: "a", Certificate: id, Evidence: certificate.Connection, Live: true, At: clock.Now()}
	if err := w.inventory.Seen(t.Context(), speaks); err == nil {
		t.Error("it is INACTIVE and was seen")
	}
	delete(fake.status, string(id))
	clock.Advance(2 * clockStep)
	speaks.At = clock.Now()
	if err := w.inventory.Seen(t.Context(), speaks); err != nil {
		t.Error(err)
	}
}

// stall has the store hang at its next commit until release is called. What
// hangs, hangs on the goroutine that writes.
type stall struct {
	armed   atomic.Bool
	hangs   chan struct{}
	release func()
	free    chan struct{}
}

func newStall() *stall {
	s := &stall{hangs: make(chan struct{}), free: make(chan struct{})}
	s.release = sync.OnceFunc(func() { close(s.free) })
	return s
}

func (s *stall) committed(time.Duration, int) {
	if s.armed.CompareAndSwap(true, false) {
		close(s.hangs)
		<-s.free
	}
}

// TestSyncIsShownWhileTheStoreHangs: whatever a sync is writing down, who asks
// how far it is has an answer, and who gives up waiting is let go.
func TestSyncIsShownWhileTheStoreHangs(t *testing.T) {
	all := SyncOrder{Source: SyncAll}
	begin := func(ctx context.Context, s *Syncer) error { _, err := s.Begin(ctx, all); return err }
	for name, one := range map[string]struct {
		before, writes func(context.Context, *Syncer) error
		want           SyncPhase
	}{
		"begin": {nil, begin, SyncDone},
		"name": {nil, func(ctx context.Context, s *Syncer) error {
			return s.Name(ctx, []store.Todo{{What: store.TodoDevice, Name: "a"}})
		}, SyncNever},
		"stop": {begin, func(ctx context.Context, s *Syncer) error { _, err := s.Stop(ctx); return err }, SyncStopped},
		"work": {begin, func(ctx context.Context, s *Syncer) error { return s.work(ctx) }, SyncDone},
	} {
		t.Run(name, func(t *testing.T) {
			fake, hang := newFake(), newStall()
			w := fake.open(t, noon(), func(c *Config) { c.Committed = hang.committed })
			t.Cleanup(hang.release)
			fake.things = []string{"a"}
			if one.before != nil {
				if err := one.before(t.Context(), w.syncer); err != nil {
					t.Fatal(err)
				}
			}
			hang.armed.Store(true)
			written := make(chan error, 1)
			go func() { written <- one.writes(t.Context(), w.syncer) }()
			<-hang.hangs
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				w.syncer.State()
				gone, leave := context.WithCancel(t.Context())
				leave()
				if _, err := w.syncer.Stop(gone); !errors.Is(err, context.Canceled) {
					t.Errorf("who has left was told %v", err)
				}
			}()
			select {
			case <-answered:
			case <-time.After(20 * time.Second):
				hang.release()
				<-answered
				t.Fatal("nobody is answered while the store hangs")
			}
			hang.release()
			if err := errors.Join(<-written, w.syncer.work(t.Context())); err != nil {
				t.Fatal(err)
			}
			var durable SyncState
			if _, err := w.store.Sync().Position(t.Context(), &durable); err != nil || durable.Phase != one.want || w.syncer.State().Phase != one.want {
				t.Errorf("it is %q, and %q in the store: %v", w.syncer.State().Phase, durable.Phase, err)
			}
		})
	}
}

// TestSyncCountsOnce: a daemon that is killed after any of a sync's commits says
// in the end how many there were, each of them once.
func TestSyncCountsOnce(t *testing.T) {
	const things = 5
	for source, want := range map[SyncSource]map[string]int{
		SyncAll: {"things": things + 1, "certificates": things}, SyncIndex: {"things": things + 1}, SyncDefender: {"findings": 2},
	} {
		for kill, killed := 1, true; killed; kill++ {
			t.Run(fmt.Sprintf("%s/%d", source, kill), func(t *testing.T) {
				dying, die := context.WithCancel(t.Context())
				defer die()
				var left atomic.Int32
				fake, clock := newFake(), noon()
				w := fake.open(t, clock, func(c *Config) {
					c.Committed = func(time.Duration, int) {
						if left.Add(-1) == 0 {
							die()
						}
					}
				})
				for i := range things {
					thing := fmt.Sprintf("thing-%02d", i)
					fake.things = append(fake.things, thing)
					fake.findings = append(fake.findings, string(fake.hold(t, w, clock, thing)))
				}
				fake.findings = fake.findings[:2]
				fake.things = append(fake.things, "gone")
				if err := errors.Join(w.registry.Add(t.Context(), "gone", nil), w.registry.Remove(t.Context(), "gone")); err != nil {
					t.Fatal(err)
				}
				if _, err := w.syncer.Begin(t.Context(), SyncOrder{Source: source}); err != nil {
					t.Fatal(err)
				}
				left.Store(int32(kill))
				killed = w.syncer.work(dying) != nil
				w.syncer = newSyncer(w) // which knows what is durable
				if err := errors.Join(w.syncer.load(t.Context()), w.syncer.work(t.Context())); err != nil {
					t.Fatal(err)
				}
				state := w.syncer.State()
				if state.Phase != SyncDone || !maps.Equal(state.Listed, want) || state.Read != state.Total || state.Strange != min(1, want["things"]) {
					t.Errorf("state %+v", state)
				}
			})
		}
	}
}

// TestSyncOfAListThatIsLost: a list whose place AWS does not know any more is
// begun anew, and counted anew.
func TestSyncOfAListThatIsLost(t *testing.T) {
	fake, clock := newFake(), noon()
	var lost atomic.Bool
	w := fake.open(t, clock, func(c *Config) {
		own := c.Clients.Config.Copy()
		next := own.HTTPClient.(*http.Client).Transport
		own.HTTPClient = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/things" && r.URL.Query().Get("nextToken") != "" && lost.CompareAndSwap(false, true) {
				return answer(r, http.StatusBadRequest, invalidRequest), nil
			}
			return next.RoundTrip(r)
		})}
		c.Clients.IoT = iot.NewFromConfig(own)
	})
	fake.things = []string{"a", "b", "c"}
	if err := errors.Join(w.registry.Add(t.Context(), "a", nil), w.registry.Remove(t.Context(), "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.syncer.Begin(t.Context(), SyncOrder{Source: SyncAll}); err != nil {
		t.Fatal(err)
	}
	if err := w.syncer.work(t.Context()); err == nil || !lost.Load() {
		t.Fatalf("no place was lost: %v", err)
	}
	if err := w.syncer.work(t.Context()); err != nil {
		t.Fatal(err)
	}
	if state := w.syncer.State(); state.Listed["things"] != 3 || state.Strange != 1 {
		t.Errorf("state %+v", state)
	}
}
