package aws

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Drop says why an envelope was dropped. It is a metric label.
type Drop string

// The drops.
const (
	DropForm     Drop = "form"     // not an envelope
	DropMAC      Drop = "mac"      // not made with a key of ours
	DropTopic    Drop = "topic"    // device or action are not the topic's
	DropStale    Drop = "stale"    // too old, or from the future
	DropRepeated Drop = "repeated" // seen before
)

// Drops lists every drop there is.
func Drops() []Drop { return []Drop{DropForm, DropMAC, DropTopic, DropStale, DropRepeated} }

// MQTTStats are the bus's counts since it was made.
type MQTTStats struct {
	Dropped     map[Drop]int64 // envelopes
	Left        int64          // requests left with the broker, to come again
	Unpublished int64          // replies that the broker did not take in time
	Lost        int64          // connections
	Failed      int64          // attempts to connect
	Presence    int64          // events of devices of ours
	Strangers   int64          // events that the receiver had no use for
	Overrun     int64          // events that there was no time for
	Executions  int64          // events of executions that have ended
}

// Stats returns the bus's counts.
func (b *MQTTBus) Stats() MQTTStats {
	c := &b.counts
	return MQTTStats{
		Dropped: c.drops(), Left: c.left.Load(), Unpublished: c.unpublished.Load(), Lost: c.lost.Load(),
		Failed: c.failed.Load(), Presence: c.presence.Load(), Strangers: c.strangers.Load(), Overrun: c.overrun.Load(),
		Executions: c.executions.Load(),
	}
}

// busCounts is ready to use, and safe for concurrent use.
type busCounts struct {
	left, unpublished, lost, failed, presence, strangers, overrun, executions atomic.Int64

	mu      sync.Mutex
	dropped map[Drop]int64
	said    map[Drop]time.Time
}

// sayEvery is how often the log says of each kind that envelopes are dropped.
const sayEvery = 10 * time.Minute

// maySay reports whether it was not said lately, and is said now.
func (c *busCounts) maySay(why Drop, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last, was := c.said[why]; was && now.Sub(last).Abs() < sayEvery {
		return false
	}
	if c.said == nil {
		c.said = map[Drop]time.Time{}
	}
	c.said[why] = now
	return true
}

func (c *busCounts) drop(why Drop) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dropped == nil {
		c.dropped = map[Drop]int64{}
	}
	c.dropped[why]++
}

func (c *busCounts) drops() map[Drop]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.dropped)
}
