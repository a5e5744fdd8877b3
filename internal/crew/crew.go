// Package crew runs functions on goroutines that are used again. A goroutine
// begins with a small stack, and one that goes deep copies it at every
// doubling; one that was deep before has room already.
package crew

import "sync"

// Crew is ready to use, and safe for concurrent use. It is never full: where
// nobody rests, another goroutine begins. Those that rest end when nothing is
// at work, so that a crew that has nothing to do costs nothing.
type Crew struct {
	mu      sync.Mutex
	atWork  int
	resting []chan func() // the last to rest is the first to be called
	running int           // goroutines, at work or resting
	ended   sync.Cond     // the last of them has; not a WaitGroup, to which none may be added meanwhile
}

// resters is how many goroutines rest at most; more end at once.
const resters = 256

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

// Wait returns when no goroutine is left. What is given to the crew meanwhile it
// waits for too, or does not.
func (c *Crew) Wait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended.L = &c.mu
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
	switch {
	case c.atWork == 0:
		for _, other := range c.resting {
			close(other)
		}
		c.resting = nil
		c.mu.Unlock()
		return nil
	case len(c.resting) == resters:
		c.mu.Unlock()
		return nil
	}
	c.resting = append(c.resting, call)
	c.mu.Unlock()
	return <-call
}
