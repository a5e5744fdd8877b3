package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

const deadline = 5 * time.Second

// bench is a queue under test, in the bubble of a test, with what was begun and
// what was answered.
type bench struct {
	t     *testing.T
	queue *Queue

	mu      sync.Mutex
	begun   []string
	answers map[string]answer
}

type answer struct {
	vending.Outcome
	err error
	at  time.Time
}

func newBench(t *testing.T, slots int) *bench {
	return &bench{t: t, queue: NewQueue(slots, deadline), answers: map[string]answer{}}
}

// do queues a request that works for so long, and returns at once.
func (b *bench) do(name string, id registry.DeviceID, action protocol.Action, long time.Duration) {
	go func() {
		outcome, err := b.queue.Do(b.t.Context(), id, action, func(context.Context) vending.Outcome {
			b.mu.Lock()
			b.begun = append(b.begun, name)
			b.mu.Unlock()
			time.Sleep(long)
			return vending.Outcome{Certificate: certificate.ID(name)}
		})
		b.mu.Lock()
		defer b.mu.Unlock()
		b.answers[name] = answer{outcome, err, time.Now()}
	}()
	synctest.Wait()
}

func (b *bench) wantBegun(names ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.begun, names) {
		b.t.Fatalf("begun: %v, want %v", b.begun, names)
	}
}

// wantAnswer checks that a request was answered so long after start, with its
// own outcome or with an error.
func (b *bench) wantAnswer(name string, start time.Time, after time.Duration, want error) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	got, ok := b.answers[name]
	switch {
	case !ok:
		b.t.Fatalf("%s: no answer", name)
	case !errors.Is(got.err, want):
		b.t.Fatalf("%s: error %v, want %v", name, got.err, want)
	case want == nil && string(got.Certificate) != name:
		b.t.Fatalf("%s: got the outcome of %q", name, got.Certificate)
	case got.at.Sub(start) != after:
		b.t.Fatalf("%s: answered after %s, want %s", name, got.at.Sub(start), after)
	}
}

// wantIdle checks that nothing is remembered of devices that wait for nothing.
func (b *bench) wantIdle() {
	b.t.Helper()
	if err := b.queue.Wait(b.t.Context()); err != nil {
		b.t.Error(err)
	}
	if n := len(b.queue.lines); n != 0 {
		b.t.Fatalf("%d lines are left of an idle queue", n)
	}
	if n := len(b.queue.slots); n != 0 {
		b.t.Fatalf("%d slots are taken in an idle queue", n)
	}
}

func TestQueueOneOfADeviceAckBeforeGet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, start := newBench(t, 8), time.Now()
		b.do("first", "d", protocol.Get, time.Second)
		b.do("get", "d", protocol.Get, time.Second)
		b.do("ack", "d", protocol.Ack, time.Second)
		b.wantBegun("first")
		time.Sleep(10 * time.Second)
		b.wantBegun("first", "ack", "get")
		b.wantAnswer("first", start, 1*time.Second, nil)
		b.wantAnswer("ack", start, 2*time.Second, nil)
		b.wantAnswer("get", start, 3*time.Second, nil)
		b.wantIdle()
	})
}

func TestQueueSecondWaitingIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, start := newBench(t, 8), time.Now()
		b.do("at work", "d", protocol.Get, time.Second)
		b.do("get", "d", protocol.Get, 0)
		b.do("ack", "d", protocol.Ack, 0)
		b.do("get too many", "d", protocol.Get, 0)
		b.do("ack too many", "d", protocol.Ack, 0)
		b.wantAnswer("get too many", start, 0, vending.ErrBusy)
		b.wantAnswer("ack too many", start, 0, vending.ErrBusy)
		b.do("another device", "e", protocol.Get, 0)
		b.wantAnswer("another device", start, 0, nil)
		time.Sleep(time.Second)
		synctest.Wait()
		b.do("later", "d", protocol.Get, 0)
		b.wantAnswer("later", start, time.Second, nil)
		b.wantBegun("at work", "another device", "ack", "get", "later")
		b.wantIdle()
	})
}

func TestQueueLateWorkIsFinishedBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, start := newBench(t, 8), time.Now()
		b.do("slow", "d", protocol.Get, deadline+time.Second)
		time.Sleep(deadline)
		synctest.Wait()
		b.wantAnswer("slow", start, deadline, vending.ErrLate)
		// The device's turn is not over: what comes now waits for the slow one.
		b.do("next", "d", protocol.Get, 0)
		b.wantBegun("slow")
		if err := b.queue.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		b.wantBegun("slow", "next")
		b.wantAnswer("next", start, deadline+time.Second, nil)
		b.wantIdle()
	})
}

func TestQueueTurnThatComesTooLateIsNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, start := newBench(t, 8), time.Now()
		b.do("slow", "d", protocol.Get, 2*deadline)
		b.do("given up", "d", protocol.Get, 0)
		time.Sleep(deadline)
		synctest.Wait()
		b.wantAnswer("given up", start, deadline, vending.ErrLate)
		// Its place is free again.
		time.Sleep(time.Second)
		b.do("in its place", "d", protocol.Get, 0)
		time.Sleep(deadline)
		synctest.Wait()
		b.wantBegun("slow", "in its place")
		b.wantAnswer("in its place", start, 2*deadline, nil)
		b.wantIdle()
	})
}

func TestQueueSlotThatComesTooLateIsNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, start := newBench(t, 1), time.Now()
		b.do("slow", "d", protocol.Get, 2*deadline)
		b.do("another device", "e", protocol.Get, 0)
		time.Sleep(deadline)
		synctest.Wait()
		b.wantAnswer("another device", start, deadline, vending.ErrLate)
		if err := b.queue.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		b.wantBegun("slow")
		b.wantIdle()
	})
}

func TestQueueDevicesInParallelUpToTheSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, start := newBench(t, 2), time.Now()
		for i, id := range []registry.DeviceID{"a", "b", "c", "d", "e"} {
			b.do(string(id), id, protocol.Get, time.Second)
			b.mu.Lock()
			if n := len(b.begun); n != min(i+1, 2) {
				t.Errorf("%d at work with %d waiting and two slots", n, i+1)
			}
			b.mu.Unlock()
		}
		time.Sleep(10 * time.Second)
		b.mu.Lock()
		last := 0
		for _, a := range b.answers {
			last = max(last, int(a.at.Sub(start)/time.Second))
		}
		b.mu.Unlock()
		if last != 3 {
			t.Errorf("five requests of a second over two slots took %d s, want 3", last)
		}
		b.wantIdle()
	})
}

func TestQueueCallerThatGoesAwayCutsNothingShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(1, deadline)
		ctx, cancel := context.WithCancel(t.Context())
		var left time.Duration
		var cut error
		go func() {
			time.Sleep(time.Second)
			cancel()
		}()
		_, err := q.Do(ctx, "d", protocol.Get, func(ctx context.Context) vending.Outcome {
			until, _ := ctx.Deadline()
			left = time.Until(until)
			time.Sleep(3 * time.Second)
			cut = ctx.Err()
			return vending.Outcome{}
		})
		if !errors.Is(err, vending.ErrLate) {
			t.Errorf("error %v, want ErrLate", err)
		}
		if err := q.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if cut != nil {
			t.Errorf("the work was cut short: %v", cut)
		}
		if left != workTime {
			t.Errorf("the work has %s, want %s", left, workTime)
		}
	})
}

// TestQueueUnderLoad lets many goroutines ask for few devices at once, with
// the race detector as the witness: no two of a device are ever at work, no
// more than the slots in all, and every one that was begun is answered or late.
func TestQueueUnderLoad(t *testing.T) {
	const slots, devices, askers = 3, 5, 40
	q := NewQueue(slots, time.Millisecond)
	var working, begun, answered, late, busy atomic.Int64
	var perDevice [devices]atomic.Int64
	var all sync.WaitGroup
	for i := range askers {
		all.Go(func() {
			device := i % devices
			action := []protocol.Action{protocol.Get, protocol.Ack}[i/devices%2]
			for range 50 {
				_, err := q.Do(t.Context(), registry.DeviceID(fmt.Sprint(device)), action, func(context.Context) vending.Outcome {
					begun.Add(1)
					if n := working.Add(1); n > slots {
						t.Errorf("%d at work with %d slots", n, slots)
					}
					if n := perDevice[device].Add(1); n > 1 {
						t.Errorf("%d of one device at work", n)
					}
					time.Sleep(100 * time.Microsecond)
					perDevice[device].Add(-1)
					working.Add(-1)
					return vending.Outcome{}
				})
				switch {
				case err == nil:
					answered.Add(1)
				case errors.Is(err, vending.ErrLate):
					late.Add(1)
				case errors.Is(err, vending.ErrBusy):
					busy.Add(1)
				default:
					t.Errorf("unexpected: %v", err)
				}
			}
		})
	}
	all.Wait()
	if err := q.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if sum := answered.Load() + late.Load() + busy.Load(); sum != askers*50 {
		t.Errorf("%d answers to %d requests", sum, askers*50)
	}
	if answered.Load() == 0 || begun.Load() < answered.Load() {
		t.Errorf("%d begun, %d answered", begun.Load(), answered.Load())
	}
	if len(q.lines) != 0 || len(q.slots) != 0 {
		t.Errorf("%d lines and %d slots are left", len(q.lines), len(q.slots))
	}
}
