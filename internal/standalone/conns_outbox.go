package standalone

import (
	"cmp"
	"slices"
	"sync"

	"github.com/mochi-mqtt/server/v2/packets"
)

// outbox is what waits to be written to one connection, in order. One goroutine
// writes at a time, whichever finds something to write; none stands by for it.
// Before the outbox is opened nothing is written.
type outbox struct {
	mu      sync.Mutex
	waiting []*packets.Packet
	again   int // how many of the first ones the session held when it was resumed
	opened  bool
	writing bool
	window  int                 // how many messages the client takes without acknowledging one; 0: any
	unacked map[uint16]struct{} // of these, where there is a window
}

// open lets writing begin, with what the session holds, which the client may
// have had. What was offered meanwhile and is held too comes once.
func (o *outbox) open(window int, held []packets.Packet) {
	slices.SortStableFunc(held, func(a, b packets.Packet) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.PacketID, b.PacketID))
	})
	first := make([]*packets.Packet, len(held))
	for i := range held {
		held[i].FixedHeader.Dup = true
		first[i] = &held[i]
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.opened, o.window, o.again = true, window, len(first)
	if window > 0 {
		o.unacked = map[uint16]struct{}{}
	}
	o.waiting = slices.DeleteFunc(o.waiting, func(pk *packets.Packet) bool {
		return pk.FixedHeader.Qos > 0 && slices.ContainsFunc(held, func(h packets.Packet) bool { return h.PacketID == pk.PacketID })
	})
	o.waiting = append(first, o.waiting...)
}

// offer reports whether there was room for another message.
func (o *outbox) offer(pk *packets.Packet, limit int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting)-o.again >= limit {
		return false
	}
	o.waiting = append(o.waiting, pk)
	return true
}

// begin reports whether the caller is to write: it does so until next returns
// nil.
func (o *outbox) begin() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writing || !o.ready() {
		return false
	}
	o.writing = true
	return true
}

func (o *outbox) next() *packets.Packet {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ready() {
		o.writing = false
		if len(o.waiting) == 0 {
			o.waiting = nil
		}
		return nil
	}
	pk := o.waiting[0]
	o.waiting[0] = nil
	o.waiting = o.waiting[1:]
	o.again = max(o.again-1, 0)
	if pk.FixedHeader.Qos > 0 && o.window > 0 {
		o.unacked[pk.PacketID] = struct{}{}
	}
	return pk
}

// ready reports whether there is something that the client takes now.
func (o *outbox) ready() bool {
	return o.opened && len(o.waiting) > 0 &&
		(o.window == 0 || len(o.unacked) < o.window || o.waiting[0].FixedHeader.Qos == 0)
}

// acknowledged makes room for what waits behind a message. That the session has
// forgotten the message meanwhile makes no difference: the client counts it.
func (o *outbox) acknowledged(id uint16) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.unacked, id)
}
