package rotation

import "slices"

// On returns a closer that does on other ports what c would do now: with its
// clock, its terms, its start and what it has removed lately. On ports that
// change nothing, it tells what c would do.
func (c *Closer) On(ports Ports) *Closer {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &Closer{Ports: ports, clock: c.clock, terms: c.terms, started: c.started, removals: slices.Clone(c.removals)}
}
