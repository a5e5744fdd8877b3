// Package crew runs functions on goroutines that are used again. A goroutine
// begins with a small stack, and one that goes deep copies it at every
// doubling; one that was deep before has room already.
package crew

import (
	"slices"
	"sync"
)

// Crew is ready to use, and safe for concurrent use. It is never full: where
// nobody rests, another goroutine begins. Those that rest end when nothing is
// at work, but for a few, so that a crew that has nothing to do costs next to
// nothing, and one that is given something now and then begins none for it.
type Crew struct {
	mu      sync.Mutex
	atWork  int
	resting []chan func() // the last to rest is the first to be called
	running int           // goroutines, at work or resting
	waiting int           // who waits for all to end
	ended   sync.Cond     // the last of them has; not a WaitGroup, to which none may be added meanwhile
}

// resters is how many goroutines rest at most; more end at once. kept is how many
// do where nothing is at work, until somebody waits for their end.
const (
	resters = 256
	kept    = 2
)

// Go runs f on another goroutine, and does not wait for it. A panic of f is
// the process's, as of any other goroutine.
func (c *Crew) Go(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.atWork++
	if last := len(c.resting) - 1; last >= 0 {
		c.resting[last] <- f // it has room for one
		c.resting = c.resting[:last]
		return
	}
	c.running++
	go c.work(f)
}

// Do runs f on another goroutine and returns when f has: the caller's stack
// stays small.
func (c *Crew) Do(f func()) {
	done := make(chan struct{})
	c.Go(func() { defer close(done); f() })
	<-done
}

// Wait ends those that rest, once nothing is at work, and returns when no goroutine
// is left. What is given to the crew meanwhile it waits for too, or does not. A
// crew that was given anything must be waited for, or goroutines are left.
func (c *Crew) Wait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended.L = &c.mu
	c.waiting++
	defer func() { c.waiting-- }()
	c.dismiss()
	for c.running > 0 {
		c.ended.Wait()
	}
}

func (c *Crew) work(f func()) {
	defer c.end()
	call := make(chan func(), 1)
	for f != nil {
		f()
		f = c.rest(call)
	}
}

func (c *Crew) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running--; c.running == 0 {
		c.ended.Broadcast()
	}
}

// rest returns what is to be run next; nil: nothing, ever.
func (c *Crew) rest(call chan func()) func() {
	c.mu.Lock()
	c.atWork--
	if most := c.dismiss(); len(c.resting) >= most {
		c.mu.Unlock()
		return nil
	}
	c.resting = append(c.resting, call)
	c.mu.Unlock()
	return <-call
}

// dismiss ends those that rest and are too many now, and returns how many may. The
// last to rest has the largest stack: the collector makes one smaller that is not
// used.
func (c *Crew) dismiss() (most int) {
	switch {
	case c.atWork > 0:
		return resters
	case c.waiting == 0:
		most = kept
	}
	tooMany := max(len(c.resting)-most, 0)
	for _, call := range c.resting[:tooMany] {
		close(call)
	}
	c.resting = slices.Delete(c.resting, 0, tooMany)
	return most
}
