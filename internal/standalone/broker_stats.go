package standalone

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Refusal says why the broker refused a connection, a packet or a
// subscription. It is a metric label.
type Refusal string

// The refusals. Those up to RefusedBusy are of connections that were never
// accepted; of the others all but RefusedSubscribe end a connection.
const (
	RefusedCrowded   Refusal = "crowded"   // too many unfinished connections
	RefusedTLS       Refusal = "tls"       // the handshake failed or was not finished in time
	RefusedExpired   Refusal = "expired"   // the certificate has expired
	RefusedUntrusted Refusal = "untrusted" // no trusted CA signed the certificate
	RefusedConnect   Refusal = "connect"   // no CONNECT in time, or not one
	RefusedClientID  Refusal = "client_id" // the client id names no device
	RefusedWill      Refusal = "will"      // a will would pass the topic rules
	RefusedKeepalive Refusal = "keepalive" // none, or longer than allowed
	RefusedStanding  Refusal = "standing"  // the receiver does not want this device with this certificate
	RefusedBusy      Refusal = "busy"      // the device's former connection did not end in time
	RefusedPublish   Refusal = "publish"   // on a topic that is not the device's to publish on
	RefusedRetain    Refusal = "retain"    // a retained message
	RefusedQoS       Refusal = "qos"       // a packet of QoS 2
	RefusedSubscribe Refusal = "subscribe" // to a filter that is not the device's, or one too many
)

// BrokerStats are the broker's counts since it was made; Connections is now.
type BrokerStats struct {
	Connections  int
	Refused      map[Refusal]int64
	Dropped      int64 // messages that a connection was too slow for
	Unacked      int64 // messages that a session holding too many was not given
	AcceptErrors int64
	Panics       int64 // connections that ended by a bug of ours or of the MQTT library
}

// Connections returns how many connections are accepted and open.
func (b *Broker) Connections() int { return b.conns.count() }

// Stats returns the broker's counts.
func (b *Broker) Stats() BrokerStats {
	return BrokerStats{
		Connections:  b.Connections(),
		Refused:      b.counts.refusals(),
		Dropped:      b.counts.dropped.Load(),
		Unacked:      b.counts.unacked.Load(),
		AcceptErrors: b.counts.acceptErrors.Load(),
		Panics:       b.counts.panics.Load(),
	}
}

// brokerCounts is ready to use, and safe for concurrent use.
type brokerCounts struct {
	acceptErrors, dropped, unacked, panics atomic.Int64

	mu      sync.Mutex
	refused map[Refusal]int64
}

func (c *brokerCounts) refuse(why Refusal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused == nil {
		c.refused = map[Refusal]int64{}
	}
	c.refused[why]++
}

func (c *brokerCounts) refusals() map[Refusal]int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.refused)
}
