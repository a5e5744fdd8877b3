package device

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"math"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

// watch is a clock that a test sets, and that counts who looks at it.
type watch struct {
	offset, looks atomic.Int64
	start         time.Time
}

func newWatch(offset time.Duration) *watch {
	w := &watch{start: time.Now().Round(0)}
	w.offset.Store(int64(offset))
	return w
}

func (w *watch) now() time.Time {
	w.looks.Add(1)
	return w.start.Add(time.Duration(w.offset.Load()))
}

func (w *watch) add(d time.Duration) { w.offset.Add(int64(d)) }

// looked waits until the agent has seen the clock often: it had the occasion
// for whatever it should not do.
func (w *watch) looked(t *testing.T) {
	t.Helper()
	before := w.looks.Load()
	eventually(t, func() bool { return w.looks.Load() > before+50 })
}

// aging returns a device whose certificate is valid for 100 hours, of which
// past are over; those to come start afresh.
func aging(t *testing.T, past time.Duration) (*world, Config, *diary) {
	w := newWorld(t)
	w.from, w.to = -past, 100*time.Hour-past
	cfg := w.provision()
	w.script(func() { w.from, w.to = -time.Hour, 99*time.Hour })
	seen := new(diary)
	cfg.Event, cfg.RenewJitter = seen.note, -1
	return w, cfg, seen
}

// running lets the agent run until stop is called.
func running(t *testing.T, cfg Config) (stop func()) {
	t.Helper()
	a := open(t, cfg)
	a.glance = 2 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func (d *diary) count(kind EventKind) int { return len(d.of(kind)) }

func TestRenewalNeedsNoJob(t *testing.T) {
	for name, noJobs := range map[string]bool{"no job": false, "nobody knows of jobs": true} {
		t.Run(name, func(t *testing.T) {
			w, cfg, seen := aging(t, 40*time.Hour)
			clock := newWatch(0)
			cfg.Now = clock.now
			cfg.Retry.Attempts, cfg.Retry.Reply = 2, 100*time.Millisecond
			w.script(func() { w.noJobs = noJobs })
			stop := running(t, cfg)
			eventually(t, func() bool { return seen.count(Connected) > 0 })
			clock.looked(t)
			if n := seen.count(RenewalDue); n != 0 {
				t.Errorf("due %d times at 40 %%", n)
			}
			clock.add(27 * time.Hour)
			eventually(t, func() bool { return seen.count(Promoted) == 1 })
			clock.looked(t)
			stop()
			checkRotated(t, w, cfg, 1)
			if n := seen.count(RenewalDue); n != 1 {
				t.Errorf("due %d times", n)
			}
		})
	}
}

func TestRenewalCanBeTurnedOff(t *testing.T) {
	_, cfg, seen := aging(t, 99*time.Hour)
	clock := newWatch(0)
	cfg.Now, cfg.RenewAt = clock.now, -1
	running(t, cfg)
	eventually(t, func() bool { return seen.count(Connected) > 0 })
	clock.looked(t)
	if n := seen.count(RenewalDue); n != 0 {
		t.Errorf("due %d times", n)
	}
}

func TestRefusedRenewalIsTriedAgainMoreOftenNearTheEnd(t *testing.T) {
	w, cfg, seen := aging(t, 68*time.Hour)
	clock := newWatch(0)
	cfg.Now = clock.now
	w.script(func() {
		w.onGet = func(int) (any, bool) { return protocol.Rejected{Message: protocol.NotAllowed}, false }
	})
	stop := running(t, cfg)
	eventually(t, func() bool { return seen.count(GivenUp) == 1 })
	clock.looked(t)
	clock.add(2 * time.Hour) // 30 hours are left: it waits for at least 2:48
	clock.looked(t)
	if n := seen.count(GivenUp); n != 1 {
		t.Fatalf("%d attempts at once", n)
	}
	// The pause is kept over a restart.
	stop()
	stop = running(t, cfg)
	clock.looked(t)
	if n := seen.count(GivenUp); n != 1 {
		t.Fatalf("%d attempts after a restart", n)
	}
	clock.add(2 * time.Hour)
	eventually(t, func() bool { return seen.count(GivenUp) == 2 })
	clock.add(24 * time.Hour)
	eventually(t, func() bool { return seen.count(GivenUp) == 3 })
	clock.add(2 * time.Hour) // 2 hours are left, the least pause: a 50th of 100 hours
	eventually(t, func() bool { return seen.count(GivenUp) == 4 })
	w.script(func() { w.onGet = nil })
	clock.add(5 * time.Hour) // it has expired, by this clock: the broker decides
	eventually(t, func() bool { return seen.count(Promoted) == 1 })
	stop()
	checkRotated(t, w, cfg, 1)
}

func TestJobDuringARenewalIsTheSameRotation(t *testing.T) {
	w, cfg, seen := aging(t, 80*time.Hour)
	clock := newWatch(0)
	cfg.Now = clock.now
	job := &protocol.JobExecution{
		JobID: "rotate-1", Status: protocol.JobQueued, ExecutionNumber: 1,
		JobDocument: protocol.Encode(protocol.NewJobDocument(protocol.DefaultTopics())),
	}
	w.script(func() {
		w.onGet = func(int) (any, bool) {
			w.job = job
			return nil, true
		}
	})
	stop := running(t, cfg)
	eventually(t, func() bool { return seen.count(Promoted) == 1 })
	clock.looked(t)
	stop()
	checkRotated(t, w, cfg, 1)
	if len(w.updates) != 1 || w.updates[0].Status != protocol.JobSucceeded || w.updates[0].ExecutionNumber != 1 {
		t.Errorf("job updates %+v", w.updates)
	}
	if seen.count(RenewalDue) != 1 || seen.count(JobReceived) != 1 {
		t.Errorf("%d renewals due, %d jobs received", seen.count(RenewalDue), seen.count(JobReceived))
	}
}

func TestJobTakesOverARenewalThatNobodyAnswered(t *testing.T) {
	w, cfg, seen := aging(t, 80*time.Hour)
	clock := newWatch(0)
	cfg.Now = clock.now
	cfg.Retry.Attempts, cfg.Retry.Reply = 2, 200*time.Millisecond
	answers := false
	w.script(func() { w.onGet = func(int) (any, bool) { return nil, answers } })
	stop := running(t, cfg)
	eventually(t, func() bool { return seen.count(Disconnected) == 1 && seen.count(Connected) == 2 })
	clock.looked(t)
	w.script(func() {
		if w.gets != 2 {
			t.Errorf("%d gets: the pause was not kept", w.gets)
		}
		answers = true
	})
	w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics()))
	eventually(t, func() bool { return seen.count(Promoted) == 1 })
	stop()
	checkRotated(t, w, cfg, 1)
	if len(w.updates) != 1 || w.updates[0].Status != protocol.JobSucceeded || w.keys[0] != w.keys[2] {
		t.Errorf("job updates %+v; same key: %t", w.updates, w.keys[0] == w.keys[2])
	}
}

func TestClockThatIsAheadRenewsOnceAndTakesWhatItGets(t *testing.T) {
	w, cfg, seen := aging(t, time.Hour)
	clock := newWatch(1000 * time.Hour)
	cfg.Now = clock.now
	stop := running(t, cfg)
	eventually(t, func() bool { return seen.count(Promoted) == 1 })
	clock.looked(t)
	clock.add(60 * time.Hour)
	clock.looked(t)
	if n := seen.count(RenewalDue); n != 1 {
		t.Fatalf("due %d times", n)
	}
	clock.add(7 * time.Hour) // by its own time the certificate is of that age
	eventually(t, func() bool { return seen.count(Promoted) == 2 })
	// Also after a restart, and when the clock is set right.
	stop()
	clock.offset.Store(0)
	stop = running(t, cfg)
	eventually(t, func() bool { return seen.count(Connected) > 0 })
	clock.looked(t)
	if n := seen.count(RenewalDue); n != 2 {
		t.Errorf("due %d times", n)
	}
	clock.add(70 * time.Hour) // the certificate is from now, by its dates
	eventually(t, func() bool { return seen.count(Promoted) == 3 })
	stop()
	checkRotated(t, w, cfg, 3)
}

// A clock that jumps anywhere at every moment may cost a rotation for every
// pause, not one for every jump.
func TestClockThatJumpsDoesNotLoop(t *testing.T) {
	w, cfg, seen := aging(t, 80*time.Hour)
	clock := newWatch(1000 * time.Hour)
	cfg.Now = clock.now
	running(t, cfg)
	eventually(t, func() bool { return seen.count(Promoted) == 1 })
	for range 10 {
		clock.add(-9 * time.Hour) // a tenth of the lifetime is 10 hours
		clock.looked(t)
		clock.add(9 * time.Hour)
		clock.looked(t)
	}
	w.script(func() {
		if len(w.issued) != 1 {
			t.Errorf("%d certificates", len(w.issued))
		}
	})
}

func TestClockThatIsBehindStillConnects(t *testing.T) {
	epoch := func() time.Time { return time.Unix(1000, 0) }
	for name, from := range map[string]time.Duration{
		"the broker's certificate is older":   -300 * time.Hour,
		"the broker's certificate is younger": -10 * time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			w, cfg, seen := aging(t, 20*time.Hour)
			w.script(func() { w.server = w.serverFor(from, 300*time.Hour) })
			cfg.Now = epoch
			w.queueJob("rotate-1", protocol.NewJobDocument(protocol.DefaultTopics()))
			if err := open(t, cfg).RunOnce(deadline(t)); err != nil {
				t.Fatal(err)
			}
			if seen.count(RenewalDue) != 0 {
				t.Error("a renewal was due")
			}
			cfg.Now = nil
			checkRotated(t, w, cfg, 1)
		})
	}
}

func TestBrokerIsVerifiedWhateverTheClockSays(t *testing.T) {
	epoch := func() time.Time { return time.Unix(1000, 0) }
	for name, c := range map[string]struct {
		now      func() time.Time
		from, to time.Duration
	}{
		"expired before the device's certificate": {epoch, -300 * time.Hour, -30 * time.Hour},
		"expired":     {nil, -300 * time.Hour, -time.Hour},
		"not yet":     {nil, time.Hour, 300 * time.Hour},
		"clock ahead": {func() time.Time { return time.Now().Add(1000 * time.Hour) }, -time.Hour, 300 * time.Hour},
	} {
		w, cfg, _ := aging(t, 20*time.Hour)
		w.script(func() { w.server = w.serverFor(c.from, c.to) })
		cfg.Now = c.now
		err := open(t, cfg).Rotate(deadline(t))
		if invalid := (x509.CertificateInvalidError{}); !errors.As(err, &invalid) || len(w.spoken) != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	w, other := newWorld(t), newWorld(t)
	cfg := w.provision()
	cfg.Roots, cfg.Now = other.roots, epoch
	w.script(func() { w.server = w.serverFor(-time.Minute, time.Hour) }) // the second look
	err := open(t, cfg).Rotate(deadline(t))
	if unknown := (x509.UnknownAuthorityError{}); !errors.As(err, &unknown) {
		t.Errorf("of another CA: %v", err)
	}
}

func TestStateOfEarlierVersionsIsRead(t *testing.T) {
	w := newWorld(t)
	cfg := w.provision()
	text := []byte(`{"current":1,"finished":{}}`)
	if err := os.WriteFile(cfg.Directory+"/"+stateFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(t, cfg).Rotate(deadline(t)); err != nil {
		t.Fatal(err)
	}
	checkRotated(t, w, cfg, 1)
	if i := inspected(t, cfg); time.Since(i.Obtained) > time.Hour || i.Obtained.IsZero() {
		t.Errorf("obtained %s", i.Obtained)
	}
}

func TestRenewalTime(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	i := Inspection{CertificateID: "8000", NotBefore: start, NotAfter: start.Add(1000 * time.Hour)}
	for name, c := range map[string]struct {
		config Config
		want   time.Duration
	}{
		"default, half of the jitter": {Config{}, 710 * time.Hour},
		"no jitter":                   {Config{RenewAt: 0.5, RenewJitter: -1}, 500 * time.Hour},
		"late, less jitter":           {Config{RenewAt: 0.9}, 925 * time.Hour},
	} {
		due, ever := c.config.RenewalTime(i)
		if got := due.Sub(start).Round(time.Minute); got != c.want || !ever {
			t.Errorf("%s: after %s, want %s", name, got, c.want)
		}
	}
	if _, ever := (Config{RenewAt: -1}).RenewalTime(i); ever {
		t.Error("turned off, and due nevertheless")
	}
	var sum float64
	for n := range 1 << 12 {
		part := phase(hex.EncodeToString([]byte{byte(n >> 4), byte(n << 4), 1}))
		if part < 0 || part >= 1 {
			t.Fatalf("phase %g", part)
		}
		sum += part
	}
	if mean := sum / (1 << 12); math.Abs(mean-0.5) > 0.01 {
		t.Errorf("phases around %g", mean)
	}
	if phase("") != 0 || phase("xy") != 0 {
		t.Error("phase of no ID")
	}
}

func TestRetryPauseShrinks(t *testing.T) {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	for _, c := range []struct{ left, lifetime, want time.Duration }{
		{year, 3 * year, day}, {4 * day, 3 * year, day / 2}, {time.Hour, 3 * year, time.Hour}, {-year, 3 * year, time.Hour},
		{30 * time.Minute, time.Hour, 30 * time.Minute / 8}, {0, time.Hour, time.Hour / 50},
	} {
		if got := retryPause(c.left, c.lifetime, 0); got != c.want {
			t.Errorf("%s left of %s: %s, want %s", c.left, c.lifetime, got, c.want)
		}
		if got := retryPause(c.left, c.lifetime, 0.999); got > c.want || got < c.want*3/4 {
			t.Errorf("%s left of %s, spread: %s", c.left, c.lifetime, got)
		}
	}
}

func TestBrokerThatClosesUponTheRequestIsNotAskedForEver(t *testing.T) {
	w, cfg, seen := aging(t, 80*time.Hour)
	clock := newWatch(0)
	cfg.Now = clock.now
	w.script(func() {
		w.onGet = func(int) (any, bool) {
			for _, cl := range w.broker.Clients.GetAll() {
				if !cl.Net.Inline {
					cl.Stop(errors.New("not allowed to ask that"))
				}
			}
			return nil, false
		}
	})
	stop := running(t, cfg)
	eventually(t, func() bool { return seen.count(Connected) == maxLost+1 })
	clock.looked(t)
	stop()
	if w.gets != maxLost {
		t.Errorf("%d gets", w.gets)
	}
}
