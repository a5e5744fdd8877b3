package standalone

import (
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// brokerHook is where the MQTT library asks the broker. Of its methods those
// with a connection run on that connection's own goroutine, except OnACLCheck
// for a delivery, OnQosPublish and OnPacketEncode of a message.
type brokerHook struct {
	mqtt.HookBase
	broker *Broker
}

func (h *brokerHook) ID() string { return "certvendor" }

func (h *brokerHook) Provides(b byte) bool {
	switch b {
	case mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnACLCheck, mqtt.OnPacketRead, mqtt.OnPacketEncode,
		mqtt.OnSubscribe, mqtt.OnUnsubscribed, mqtt.OnPublish, mqtt.OnQosPublish:
		return true
	}
	return false
}

// OnConnect accepts or turns away; returning an error ends the connection.
func (h *brokerHook) OnConnect(client *mqtt.Client, pk packets.Packet) error {
	l := client.Net.Conn.(*mqttLink)
	if refused := h.broker.connect(l, client, pk); refused != nil {
		h.broker.turnAway(l, client, refused)
		return refused
	}
	return nil
}

// OnConnectAuthenticate repeats what OnConnect decided, for the library.
func (h *brokerHook) OnConnectAuthenticate(client *mqtt.Client, _ packets.Packet) bool {
	return client.Net.Conn.(*mqttLink).accepted.Load()
}

// OnPacketRead refuses what no device may send, before the library acts on
// it. ErrRejectPacket is the only error by which it ends a connection.
func (h *brokerHook) OnPacketRead(client *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	l, ok := client.Net.Conn.(*mqttLink)
	if !ok || !l.accepted.Load() {
		return pk, nil
	}
	if l.draining.Load() {
		return pk, packets.ErrRejectPacket
	}
	l.heard.Store(nowNano())
	switch pk.FixedHeader.Type {
	case packets.Publish:
		if why, code, ok := h.broker.checkPublish(l, pk); !ok {
			return pk, h.broker.hangUp(l, why, code)
		}
		if pk.FixedHeader.Qos > 0 && pk.PacketID != 0 {
			pk.PacketID = l.standIn(pk.PacketID, client)
		}
	case packets.Subscribe, packets.Unsubscribe:
		if pk.PacketID != 0 {
			pk.PacketID = l.standIn(pk.PacketID, client)
		}
	case packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		return pk, h.broker.hangUp(l, RefusedQoS, packets.ErrQosNotSupported)
	}
	return pk, nil
}

// OnPacketEncode gives an acknowledgement the packet id that the device used.
// It keeps a DISCONNECT from MQTT 3.1.1 clients, which know it only as their
// own word: the library does not write a packet that is none.
func (h *brokerHook) OnPacketEncode(client *mqtt.Client, pk packets.Packet) packets.Packet {
	l, ok := client.Net.Conn.(*mqttLink)
	if !ok {
		return pk
	}
	switch pk.FixedHeader.Type {
	case packets.Puback, packets.Suback, packets.Unsuback:
		if pk.PacketID == l.ours {
			pk.PacketID = l.theirs
		}
	case packets.Disconnect:
		if client.Properties.ProtocolVersion < 5 {
			pk.FixedHeader.Type = packets.Reserved
		}
	}
	return pk
}

// OnACLCheck is asked for a publish, for a subscription and for every single
// delivery. A session that holds too much is given no more: what a device does
// not acknowledge, or has stored for it, is the daemon's memory.
func (h *brokerHook) OnACLCheck(client *mqtt.Client, topic string, write bool) bool {
	l, ok := client.Net.Conn.(*mqttLink)
	switch {
	case !ok:
		return false
	case write:
		return h.broker.acl.publish(l.device, topic, l.expired)
	case client.State.Inflight.Len() >= h.broker.limits.Unacked:
		h.broker.counts.unacked.Add(1)
		return false
	}
	return h.broker.acl.subscribe(l.device, topic, l.expired)
}

// OnSubscribe makes a filter too many invalid, so that the library refuses it.
// Those that are not the device's are left for OnACLCheck to refuse.
func (h *brokerHook) OnSubscribe(client *mqtt.Client, pk packets.Packet) packets.Packet {
	l := client.Net.Conn.(*mqttLink)
	for i, s := range pk.Filters {
		switch {
		case !h.broker.acl.subscribe(l.device, s.Filter, l.expired):
			h.broker.counts.refuse(RefusedSubscribe)
		case !h.broker.conns.subscribe(l, s.Filter):
			h.broker.counts.refuse(RefusedSubscribe)
			pk.Filters[i].Filter = ""
		}
	}
	return pk
}

// OnUnsubscribed is called for a packet and for the end of a session.
func (h *brokerHook) OnUnsubscribed(client *mqtt.Client, pk packets.Packet) {
	if l, ok := client.Net.Conn.(*mqttLink); ok {
		for _, s := range pk.Filters {
			h.broker.conns.unsubscribe(l, s.Filter)
		}
	}
}

// OnPublish takes the requests. The library acknowledges and forgets them:
// nothing of a request is routed.
func (h *brokerHook) OnPublish(client *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	l, ok := client.Net.Conn.(*mqttLink)
	if !ok || !h.broker.serve(l, pk) { // not ok: the broker's own Publish passes here too
		return pk, nil
	}
	return pk, packets.CodeSuccessIgnore
}

// OnQosPublish notes the packet id of a message to the device.
func (h *brokerHook) OnQosPublish(client *mqtt.Client, pk packets.Packet, _ int64, _ int) {
	if l, ok := client.Net.Conn.(*mqttLink); ok && pk.FixedHeader.Type == packets.Publish {
		l.lastSent.Store(uint32(pk.PacketID))
	}
}
