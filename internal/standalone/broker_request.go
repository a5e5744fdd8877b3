package standalone

import (
	"context"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

// serve answers a request, while the connection waits, and reports whether the
// message was one. The topic rules have been asked: a request's
// topic names the connection's device.
func (b *Broker) serve(l *mqttLink, pk *packets.Packet) bool {
	if _, _, ok := b.config.Topics.Parse(pk.TopicName); ok {
		served := &request{link: l}
		defer served.over.Store(true)
		b.receiver.Serve(context.WithValue(b.serving, requestKey{}, served), vending.Message{
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
