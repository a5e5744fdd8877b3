package crew

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// More at once than ever rest, each waiting for all the others: none is kept
// waiting by another, and in the end nobody is left.
func TestACrewIsNeverFull(t *testing.T) {
	const n = 2 * resters
	var c Crew
	var ran atomic.Int64
	for range 3 {
		var all sync.WaitGroup
		all.Add(n)
		for range n {
			c.Go(func() { all.Done(); all.Wait(); ran.Add(1) })
		}
		all.Wait()
	}
	c.Wait()
	if ran.Load() != 3*n {
		t.Errorf("%d ran, not %d", ran.Load(), 3*n)
	}
}

func TestAGoroutineIsUsedAgainWhileAnotherIsAtWork(t *testing.T) {
	var c Crew
	begun, end := make(chan struct{}), make(chan struct{})
	c.Go(func() { close(begun); <-end })
	<-begun
	for range 1000 {
		c.Do(func() {})
	}
	c.mu.Lock()
	resting := len(c.resting)
	c.mu.Unlock()
	// Do returns a moment before its goroutine rests, so that the next one may
	// have begun another.
	if resting == 0 || resting > 100 {
		t.Errorf("%d goroutines rest after a thousand calls, one at a time", resting)
	}
	close(end)
	c.Wait()
	if len(c.resting) > 0 {
		t.Errorf("%d rest that were waited for", len(c.resting))
	}
}

// Where nothing is at work a few rest still, for the next that comes alone, and no
// more than a few.
func TestAFewRestWhereNothingIsAtWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Crew
		for range 3 {
			c.Do(func() {})
			synctest.Wait()
			if c.running != 1 || len(c.resting) != 1 {
				t.Errorf("after one alone there are %d, of which %d rest", c.running, len(c.resting))
			}
		}
		end := make(chan struct{})
		for range 3 * kept {
			c.Go(func() { <-end })
		}
		close(end)
		synctest.Wait()
		if c.running != kept || len(c.resting) != kept {
			t.Errorf("after many at a time there are %d, of which %d rest", c.running, len(c.resting))
		}
		c.Wait()
	})
}

// deep needs more stack than a goroutine begins with.
func deep(n int) byte {
	var frame [1 << 10]byte
	frame[n] = byte(n)
	if n == 0 {
		return frame[0]
	}
	return deep(n-1) + frame[n]
}

// What a goroutine costs that needs 16 kB of stack, and what one of the crew.
func BenchmarkDeep(b *testing.B) {
	b.Run("go", func(b *testing.B) {
		for b.Loop() {
			done := make(chan struct{})
			go func() { deep(14); close(done) }()
			<-done
		}
	})
	b.Run("alone", func(b *testing.B) {
		var c Crew
		for b.Loop() {
			c.Do(func() { deep(14) })
		}
		c.Wait()
	})
	b.Run("crew", func(b *testing.B) {
		var c Crew
		end := make(chan struct{})
		c.Go(func() { <-end })
		for b.Loop() {
			c.Do(func() { deep(14) })
		}
		close(end)
		c.Wait()
	})
}
