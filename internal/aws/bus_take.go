package aws

import (
	"context"
	"errors"
	"sync/atomic"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/certvendor/certvendor/vending"
)

// takeRequest serves one message and acknowledges it when its outcome is
// durable and its reply with the broker. What there is no place for, and what
// could not be answered, is left with the broker, which delivers it again to
// the next connection; that one is made once nothing is at work on this.
func (b *MQTTBus) takeRequest(k *link, m mqtt.Message) {
	if !b.enter() {
		return
	}
	defer b.leave()
	if !k.begin(b.config.Backlog) {
		b.counts.left.Add(1)
		k.renewWhenIdle()
		return
	}
	defer k.end()
	if !b.serve(m) {
		b.counts.left.Add(1)
		k.renewWhenIdle()
		return
	}
	m.Ack()
}

// serve reports whether the broker may forget the message.
func (b *MQTTBus) serve(m mqtt.Message) bool {
	if b.config.Identity == Direct {
		b.lookFor(m.Topic())
		return b.hand(vending.Message{Topic: m.Topic(), Payload: m.Payload()})
	}
	e, err := openEnvelope(b.config, m.Topic(), m.Payload())
	if err != nil {
		b.drop(err)
		return true
	}
	turn := b.seen.enter(e.TraceID, e.expires(), b.config.Now())
	if !turn.first {
		// The first may have come over a connection that is gone, so its end
		// counts for this one.
		select {
		case <-turn.ended:
		case <-b.serving.Done():
			return false
		}
		if turn.answered() {
			b.counts.drop(DropRepeated)
		}
		return turn.answered()
	}
	answered := b.hand(e.message(b.config.Topics, b.config.Now()))
	b.seen.end(e.TraceID, turn, answered)
	return answered
}

func (b *MQTTBus) drop(err error) {
	var dropped *dropError
	if !errors.As(err, &dropped) {
		return
	}
	b.counts.drop(dropped.why)
	// A forger would fill the log with what he sends, but where every envelope is
	// dropped no device has an answer.
	b.config.Log.Debug().Err(err).Msg("dropped an envelope")
	if todo := dropped.todo(); todo != "" && b.counts.maySay(dropped.why, b.config.Now()) {
		b.config.Log.Warn().Err(err).Int64("dropped", b.counts.drops()[dropped.why]).Msg("requests of devices may be dropped: " + todo)
	}
}

// hand has the receiver serve a message, and reports whether everything that
// it published meanwhile has reached the broker.
func (b *MQTTBus) hand(m vending.Message) bool {
	var unheard atomic.Bool
	b.receiver.Serve(context.WithValue(b.serving, unheardKey{}, &unheard), m)
	return !unheard.Load()
}

// unheardKey finds, in the context of a request, whether a reply to it was
// left unpublished.
type unheardKey struct{}

func markUnheard(ctx context.Context) {
	if unheard, ok := ctx.Value(unheardKey{}).(*atomic.Bool); ok {
		unheard.Store(true)
	}
}
