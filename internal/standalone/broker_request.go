package standalone

import (
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

// checkPublish reports whether the device may send this PUBLISH.
func (b *Broker) checkPublish(l *mqttLink, pk packets.Packet) (why Refusal, code packets.Code, ok bool) {
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

// hangUp ends a connection, as AWS IoT does for a publish that is not allowed,
// and returns the error by which the library does it.
func (b *Broker) hangUp(l *mqttLink, why Refusal, code packets.Code) error {
	b.counts.refuse(why)
	b.config.Log.Info().Str("why", string(why)).Str("device", string(l.device)).Str("certificate", string(l.certificate)).
		Msg("connection ended for what it sent")
	_ = b.server.DisconnectClient(l.client, code)
	return packets.ErrRejectPacket
}

// serve answers a request on the connection's own goroutine and reports
// whether the message was one. The topic rules have been asked: a request's
// topic names the connection's device.
func (b *Broker) serve(l *mqttLink, pk packets.Packet) bool {
	if _, _, ok := b.config.Topics.Parse(pk.TopicName); ok {
		b.receiver.Serve(b.serving, vending.Message{
			Topic: pk.TopicName, Payload: pk.Payload, Caller: l.caller(certificate.Connection),
		})
		return true
	}
	request, ok := parseJobTopic(pk.TopicName)
	if !ok {
		return false
	}
	var topic string
	var reply []byte
	if l.jobs.Allow() {
		topic, reply = b.jobs.Answer(b.serving, l.device, pk.TopicName, pk.Payload)
	} else {
		topic, reply = request.refuse(protocol.JobRefusal{
			Code: protocol.JobThrottled, Message: "too many requests", Timestamp: b.config.Now().Unix(),
		})
	}
	b.reply(l, topic, reply)
	return true
}

// reply writes to this connection, whether it subscribed or not, and to no
// other: no topic is routed, and QoS 0 leaves nothing in a session that a
// later connection would be given. A connection that has ended needs no reply.
func (b *Broker) reply(l *mqttLink, topic string, payload []byte) {
	if topic == "" {
		return
	}
	_ = l.client.WritePacket(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish},
		TopicName:   topic, Payload: payload,
	})
}

// nowNano is the process's own clock, for what is never compared with a date.
func nowNano() int64 { return time.Now().UnixNano() }
