package standalone

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// paced runs a pacer in a bubble of time, in which waiting costs nothing.
func paced(t *testing.T, edit func(*PacerConfig), test func(*Pacer, *jobMemory, *jobWorld)) {
	synctest.Test(t, func(t *testing.T) {
		memory := &jobMemory{now: time.Now}
		w := &jobWorld{t: t, memory: memory}
		w.Jobs = NewJobs(JobsConfig{Store: memory, Publish: w.publish, Now: time.Now, Log: zerolog.Nop()})
		config := PacerConfig{
			Store: memory, Jobs: w.Jobs, PerMinute: 60, MaxInFlight: 1000, Now: time.Now, Log: zerolog.Nop(),
		}
		edit(&config)
		p, err := NewPacer(config)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); p.Run(ctx) }()
		synctest.Wait()
		test(p, memory, w)
		cancel()
		<-ended
	})
}

func unheard(context.Context, string, []byte) error { return nil }

func members(n int) []registry.DeviceID {
	var devices []registry.DeviceID
	for i := range n {
		devices = append(devices, registry.DeviceID(fmt.Sprintf("dev%d", i)))
	}
	return devices
}

func (m *jobMemory) releases() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.released)
}

func TestMembersGetTheirJobAtThePace(t *testing.T) {
	for _, perMinute := range []int{1, 60, 120, 6000, 1_000_000} {
		t.Run(fmt.Sprint(perMinute), func(t *testing.T) {
			paced(t, func(c *PacerConfig) { c.PerMinute, c.MaxInFlight = perMinute, 1<<30 }, func(p *Pacer, m *jobMemory, _ *jobWorld) {
				span := 3 * time.Minute
				if perMinute >= 6000 {
					span = 5 * time.Second
				}
				// Who is told what is another test's business.
				p.config.Jobs = NewJobs(JobsConfig{Store: &jobMemory{now: time.Now}, Publish: unheard, Now: time.Now})
				allowed := int(float64(perMinute)*span.Minutes() + p.burst())
				m.wait(members(allowed * 2)...)
				p.Poke()
				time.Sleep(span)
				synctest.Wait()
				n := m.releases()
				if n > allowed+1 || n < allowed*9/10-1 {
					t.Errorf("%d released in %s, not about %d", n, span, allowed)
				}
			})
		})
	}
}

func TestNobodyIsReleasedWhereNobodyWaits(t *testing.T) {
	paced(t, func(*PacerConfig) {}, func(p *Pacer, m *jobMemory, _ *jobWorld) {
		for range 10 {
			p.Poke()
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		if m.asked > 0 {
			t.Errorf("the store was asked %d times to release members", m.asked)
		}
		m.wait("dev1")
		p.Poke()
		synctest.Wait()
		if m.asked != 1 || m.releases() != 1 {
			t.Errorf("asked %d times, %d released: want one of each", m.asked, m.releases())
		}
	})
}

func TestTheFirstMemberIsReleasedAtOnce(t *testing.T) {
	paced(t, func(*PacerConfig) {}, func(p *Pacer, m *jobMemory, w *jobWorld) {
		time.Sleep(10 * time.Minute)
		begin := time.Now()
		m.wait("dev1")
		p.Poke()
		synctest.Wait()
		if m.releases() != 1 || m.released[0] != begin {
			t.Errorf("released %v, asked %v", m.released, begin)
		}
		if len(w.published) != 2 || w.published[0].topic != "$aws/things/dev1/jobs/notify" || w.published[1].topic != "$aws/things/dev1/jobs/notify-next" {
			t.Errorf("published %v", w.published)
		}
	})
}

func TestAPauseSavesNoMoreThanASecondsWorth(t *testing.T) {
	paced(t, func(c *PacerConfig) { c.PerMinute = 600 }, func(p *Pacer, m *jobMemory, _ *jobWorld) {
		time.Sleep(time.Hour)
		m.wait(members(100)...)
		p.Poke()
		synctest.Wait()
		if n := m.releases(); n != 10 {
			t.Errorf("%d released at once, not 10", n)
		}
	})
}

func TestNoMoreThanMayBeInFlight(t *testing.T) {
	paced(t, func(c *PacerConfig) { c.PerMinute, c.MaxInFlight = 6000, 3 }, func(p *Pacer, m *jobMemory, _ *jobWorld) {
		m.wait(members(10)...)
		p.Poke()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := m.releases(); n != 3 {
			t.Fatalf("%d released, not 3", n)
		}
		m.mu.Lock()
		m.all[0] = m.all[0].End(protocol.JobSucceeded, time.Now())
		m.mu.Unlock()
		end := time.Now()
		p.Poke()
		synctest.Wait()
		if n := m.releases(); n != 4 || m.released[3] != end {
			t.Errorf("%d released after one ended, not 4", n)
		}
	})
}

func TestAnExecutionThatTakesTooLongIsTimedOut(t *testing.T) {
	paced(t, func(c *PacerConfig) { c.InProgressTimeout, c.MaxInFlight = time.Hour, 2 }, func(p *Pacer, m *jobMemory, w *jobWorld) {
		m.wait("dev0", "dev1", "dev2", "dev3")
		p.Poke()
		time.Sleep(10 * time.Second)
		m.mu.Lock()
		for i := range m.all {
			m.all[i], _ = m.all[i].Start(nil, time.Now())
		}
		m.mu.Unlock()
		time.Sleep(55 * time.Minute)
		synctest.Wait()
		if m.status("dev0", "rotate") != protocol.JobInProgress {
			t.Fatalf("dev0 is %s before its time", m.status("dev0", "rotate"))
		}
		w.mu.Lock()
		w.published = nil
		w.mu.Unlock()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if m.status("dev0", "rotate") != protocol.JobTimedOut || m.status("dev1", "rotate") != protocol.JobTimedOut {
			t.Errorf("dev0 is %s, dev1 is %s", m.status("dev0", "rotate"), m.status("dev1", "rotate"))
		}
		if n := m.releases(); n != 4 {
			t.Errorf("%d released, not 4: those that were timed out make room", n)
		}
		same(t, "notify to dev0", w.published[0].body["jobs"], "{}")
	})
}

func TestAStoreThatFailsIsAskedAgain(t *testing.T) {
	paced(t, func(*PacerConfig) {}, func(p *Pacer, m *jobMemory, _ *jobWorld) {
		m.mu.Lock()
		m.err = errors.New("disk full")
		m.mu.Unlock()
		p.Poke()
		time.Sleep(time.Minute)
		m.mu.Lock()
		m.err = nil
		m.mu.Unlock()
		m.wait("dev1")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := m.releases(); n != 1 {
			t.Errorf("%d released", n)
		}
	})
}

func TestAClockSetBackReleasesNothing(t *testing.T) {
	var back atomic.Int64
	paced(t, func(c *PacerConfig) { c.Now = func() time.Time { return time.Now().Add(-time.Duration(back.Load())) } }, func(p *Pacer, m *jobMemory, _ *jobWorld) {
		m.wait(members(100)...)
		p.Poke()
		synctest.Wait()
		back.Store(int64(time.Hour))
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := m.releases(); n < 55 || n > 62 {
			t.Errorf("%d released in a minute, not about 60", n)
		}
	})
}

func TestPacesThatCannotBe(t *testing.T) {
	for _, c := range []PacerConfig{
		{PerMinute: 0, MaxInFlight: 1}, {PerMinute: 1_000_001, MaxInFlight: 1}, {PerMinute: 1, MaxInFlight: 0},
		{PerMinute: 1, MaxInFlight: 1, InProgressTimeout: -1},
	} {
		if _, err := NewPacer(c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
	if _, err := NewPacer(PacerConfig{PerMinute: 1_000_000, MaxInFlight: 1}); err != nil {
		t.Error(err)
	}
}
