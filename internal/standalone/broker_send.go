package standalone

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/certvendor/certvendor/protocol"
)

// request is a request that is being served, and the connection that it came over.
// Whoever serves it writes to that connection when it is over, so that the reply
// needs no goroutine of its own.
type request struct {
	link *mqttLink
	over atomic.Bool
}

// requestKey is where a context has the request.
type requestKey struct{}

// Publish hands a message to every subscriber, QoS 1, not retained. It waits
// for none of them: a subscriber that does not read costs nobody but itself,
// and ends at the write deadline.
func (b *Broker) Publish(ctx context.Context, topic string, payload []byte) error {
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: 1}, PacketID: 1, // of each delivery its own
		TopicName: topic, Payload: bytes.Clone(payload),
	}
	if code := pk.PublishValidate(0); code != packets.CodeSuccess {
		return fmt.Errorf("publish on %s: %w", topic, code)
	}
	served, _ := ctx.Value(requestKey{}).(*request)
	b.route(pk, served)
	return nil
}

// route delivers a message to every subscriber, and has the crew write it,
// except to the connection whose request is being served, if one is.
func (b *Broker) route(pk packets.Packet, served *request) {
	pk.Created = time.Now().Unix()
	pk.Expiry = pk.Created + b.server.Options.Capabilities.MaximumMessageExpiryInterval
	if asked := int64(pk.Properties.MessageExpiryInterval); asked > 0 {
		pk.Expiry = min(pk.Expiry, pk.Created+asked)
	}
	for id, subscription := range b.server.Topics.Subscribers(pk.TopicName).Subscriptions {
		client, ok := b.server.Clients.Get(id)
		if !ok || subscription.NoLocal && pk.Origin == client.ID {
			continue
		}
		l := b.deliver(client, subscription, &pk)
		// Asked behind the delivery: what waits before the request is over is written
		// by whoever serves it, and what comes later by the crew.
		if l != nil && (served == nil || served.link != l || served.over.Load()) {
			b.crew.Go(func() { defer b.recover(l); b.flush(l) })
		}
	}
}

// deliver puts a message into the session of a subscriber, and returns the
// connection to write it to; nil: there is none. A session that holds too much is given
// no more: what a device does not acknowledge, or has stored for it, is the
// daemon's memory.
func (b *Broker) deliver(client *mqtt.Client, to packets.Subscription, pk *packets.Packet) *mqttLink {
	l := client.Net.Conn.(*mqttLink)
	held := client.State.Inflight
	if b.isFull(held, len(pk.Payload)) {
		b.counts.unacked.Add(1)
		return nil
	}
	if !b.acl.subscribe(l.device, pk.TopicName, l.expired) {
		return nil
	}
	out := &packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: min(pk.FixedHeader.Qos, to.Qos, 1)},
		TopicName:   pk.TopicName, Payload: pk.Payload, Properties: pk.Properties.Copy(false),
		Created: pk.Created, Expiry: pk.Expiry,
	}
	for _, id := range to.Identifiers {
		out.Properties.SubscriptionIdentifier = append(out.Properties.SubscriptionIdentifier, id)
	}
	slices.Sort(out.Properties.SubscriptionIdentifier)
	if out.FixedHeader.Qos > 0 {
		out.PacketID = l.nextID(held)
		held.Set(*out)
	}
	if client.Closed() {
		successor, _ := b.server.Clients.Get(client.ID) // it may have been resumed just now
		if successor == nil || successor.Closed() {
			return nil
		}
		l = successor.Net.Conn.(*mqttLink)
	}
	if !l.outbox.offer(out, b.limits.Pending) {
		b.counts.dropped.Add(1)
		held.Delete(out.PacketID)
		return nil
	}
	return l
}

// isFull reports whether a session holds too much to be given so many octets more.
// They are counted only where they might be too many.
func (b *Broker) isFull(held *mqtt.Inflight, more int) bool {
	n := held.Len()
	if n >= b.limits.Unacked || n < b.limits.UnackedOctets/protocol.MaxPacket {
		return n >= b.limits.Unacked
	}
	for _, pk := range held.GetAll(false) {
		more += len(pk.Payload)
	}
	return more > b.limits.UnackedOctets
}

// flush writes what waits for the connection, unless somebody does already.
func (b *Broker) flush(l *mqttLink) {
	if !l.outbox.begin() {
		return
	}
	for pk := l.outbox.next(); pk != nil; pk = l.outbox.next() {
		err := l.client.WritePacket(*pk) // fails where the connection has ended too, which its reader finds
		if errors.Is(err, packets.ErrPacketTooLarge) {
			// The client takes none so large: it will never acknowledge it.
			b.counts.dropped.Add(1)
			l.client.State.Inflight.Delete(pk.PacketID)
			l.outbox.acknowledged(pk.PacketID)
		}
	}
}
