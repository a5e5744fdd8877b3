package standalone

import (
	"math"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/certvendor/certvendor/protocol"
)

// BrokerLimits are the broker's guards. A zero field is its default.
type BrokerLimits struct {
	Handshake     time.Duration // from the slot to the accepted CONNECT; 30 s, for slow controllers
	Slots         int           // unfinished connections of one address at work at a time, more wait; 16, loopback has no limit
	Unfinished    int           // unfinished connections in all, at work or waiting, more are closed; 4,096
	Write         time.Duration // how long a device may take to read what is written to it; 10 s
	Sessions      int           // of one device, connected or stored; 8
	Subscriptions int           // of one device, over all its sessions; 50
	Pending       int           // messages waiting to be written to one connection; 256
	Unacked       int           // messages one session holds that were not acknowledged; 1,024
	UnackedOctets int           // the same, in octets of their payloads; 1 MiB
	StoredSession time.Duration // after its last connection closed; 1 h
	Keepalive     time.Duration // the longest that a device may ask for; 1,200 s
	JobRequests   float64       // job requests a second of one connection, twice as many at once; 20
}

func (l BrokerLimits) orDefaults() BrokerLimits {
	return BrokerLimits{
		Handshake:     or(l.Handshake, 30*time.Second),
		Slots:         or(l.Slots, 16),
		Unfinished:    or(l.Unfinished, 4096),
		Write:         or(l.Write, 10*time.Second),
		Sessions:      or(l.Sessions, 8),
		Subscriptions: or(l.Subscriptions, 50),
		Pending:       or(l.Pending, 256),
		Unacked:       or(l.Unacked, 1024),
		UnackedOctets: or(l.UnackedOctets, 1<<20),
		StoredSession: or(l.StoredSession, time.Hour),
		Keepalive:     or(l.Keepalive, 1200*time.Second),
		JobRequests:   or(l.JobRequests, 20),
	}
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// capabilities are the limits as the library takes them. Wills, retained
// messages, shared subscriptions and QoS 2 are refused by the broker before the
// library sees them; what is set here holds if one slipped through.
func (l BrokerLimits) capabilities() *mqtt.Capabilities {
	c := mqtt.NewDefaultServerCapabilities()
	c.MaximumClientWritesPending = 0 // no message comes by the library: see outbox
	c.MaximumPacketSize = protocol.MaxPacket
	c.MaximumSessionExpiryInterval = uint32(max(l.StoredSession/time.Second, 1))
	c.MaximumInflight = math.MaxUint16 // the broker stops at Unacked and counts; the library drops silently
	c.MaximumQos = 1
	c.RetainAvailable = 0
	c.SharedSubAvailable = 0
	c.TopicAliasMaximum = 0 // an alias would reach the topic rules as an empty topic
	c.Compatibilities.NoInheritedPropertiesOnAck = true
	return c
}
