package crew

import (
	"sync"
	"testing"
)

// Who publishes while a broker ends gives its crew something to do while that is
// waited for.
func TestWaitingWhileOthersGiveWork(t *testing.T) {
	const n = 20_000
	var c Crew
	var all sync.WaitGroup
	all.Go(func() {
		for range n {
			c.Go(func() {})
		}
	})
	for range n {
		c.Wait()
	}
	all.Wait()
	c.Wait()
}
