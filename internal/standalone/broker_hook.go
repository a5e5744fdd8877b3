package standalone

import (
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// brokerHook is where the MQTT library asks the broker. Its methods are called
// while a packet of the connection is worked on, except OnPacketEncode of a
// message and OnUnsubscribed at the end of a session.
type brokerHook struct {
	mqtt.HookBase
	broker *Broker
}

func (h *brokerHook) ID() string { return "certvendor" }

func (h *brokerHook) Provides(b byte) bool {
	switch b {
	case mqtt.OnACLCheck, mqtt.OnPacketEncode, mqtt.OnSubscribe, mqtt.OnUnsubscribed:
		return true
	}
	return false
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
	case packets.Suback, packets.Unsuback:
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

// OnACLCheck is asked for a subscription. Publishes do not come to the library.
func (h *brokerHook) OnACLCheck(client *mqtt.Client, filter string, write bool) bool {
	l, ok := client.Net.Conn.(*mqttLink)
	return ok && !write && h.broker.acl.subscribe(l.device, filter, l.expired)
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
