package standalone

import (
	"errors"

	"github.com/mochi-mqtt/server/v2/packets"
)

// packet reads the rest of one packet of an accepted connection and acts on
// it. It reports whether the connection goes on. What is published is the
// broker's own to answer; subscriptions and the rest are the library's.
func (b *Broker) packet(l *mqttLink, header *packets.FixedHeader) bool {
	pk, err := l.client.ReadPacket(header)
	if err != nil || l.draining.Load() {
		return false
	}
	l.heard.Store(nowNano())
	switch pk.FixedHeader.Type {
	case packets.Publish:
		return b.published(l, &pk)
	case packets.Puback:
		b.acknowledged(l, pk.PacketID)
		return true
	case packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		b.hangUp(l, RefusedQoS, packets.ErrQosNotSupported)
		return false
	case packets.Subscribe, packets.Unsubscribe:
		if pk.PacketID != 0 {
			pk.PacketID = l.standIn(pk.PacketID, l.client)
		}
	}
	if err := b.server.InjectPacket(l.client, pk); err != nil {
		return b.broken(l, err)
	}
	return !l.client.Closed()
}

// published answers a request, or hands on what is none, and acknowledges it: a
// request once its outcome is durable, all else as the library would, before
// the subscribers have it.
func (b *Broker) published(l *mqttLink, pk *packets.Packet) bool {
	if why, code, ok := b.checkPublish(l, pk); !ok {
		b.hangUp(l, why, code)
		return false
	}
	if code := pk.PublishValidate(0); code != packets.CodeSuccess {
		return b.broken(l, code)
	}
	request := b.serve(l, pk)
	l.cork() // the reply and the acknowledgement are one write
	b.flush(l)
	if pk.FixedHeader.Qos > 0 {
		_ = l.client.WritePacket(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID})
	}
	l.uncork()
	if !request {
		pk.Origin = l.clientID
		b.route(*pk, nil)
	}
	return !l.client.Closed()
}

// checkPublish reports whether the device may send this PUBLISH.
func (b *Broker) checkPublish(l *mqttLink, pk *packets.Packet) (why Refusal, code packets.Code, ok bool) {
	switch {
	case pk.FixedHeader.Qos > 1:
		return RefusedQoS, packets.ErrQosNotSupported, false
	case pk.FixedHeader.Retain:
		return RefusedRetain, packets.ErrRetainNotSupported, false
	case !b.acl.publish(l.device, pk.TopicName, l.expired):
		return RefusedPublish, packets.ErrNotAuthorized, false
	}
	return "", packets.Code{}, true
}

// acknowledged forgets a message that the device has, which may make room for
// others that wait.
func (b *Broker) acknowledged(l *mqttLink, id uint16) {
	l.client.State.Inflight.Delete(id)
	l.outbox.acknowledged(id)
	b.flush(l)
}

// broken ends a connection that broke the protocol, and tells it if MQTT has a
// word for that.
func (b *Broker) broken(l *mqttLink, err error) bool {
	var code packets.Code
	if errors.As(err, &code) && code.Code >= packets.ErrUnspecifiedError.Code {
		_ = b.server.DisconnectClient(l.client, code)
	}
	return false
}

// hangUp ends a connection, as AWS IoT does for a publish that is not allowed.
func (b *Broker) hangUp(l *mqttLink, why Refusal, code packets.Code) {
	b.counts.refuse(why)
	b.config.Log.Info().Str("why", string(why)).Str("device", string(l.device)).Str("certificate", string(l.certificate)).
		Msg("connection ended for what it sent")
	_ = b.server.DisconnectClient(l.client, code)
}
