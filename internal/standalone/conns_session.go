package standalone

import (
	"math"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"github.com/certvendor/certvendor/registry"
)

// drop removes a session that was marked as gone, the library's half first.
// The lock is not held over that: the library calls back.
func (t *connTable) drop(device registry.DeviceID, clientID string) {
	t.forget(clientID)
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sessions[device][clientID]
	delete(t.sessions[device], clientID)
	if len(t.sessions[device]) == 0 {
		delete(t.sessions, device)
	}
	close(s.gone)
}

// dropOld drops the sessions that were stored for longer than they are kept.
func (t *connTable) dropOld() {
	type key struct {
		device   registry.DeviceID
		clientID string
	}
	var old []key
	now := t.now()
	t.mu.Lock()
	for device, sessions := range t.sessions {
		for id, s := range sessions {
			if s.link == nil && s.gone == nil && now.Sub(s.ended) >= s.keep {
				s.gone = make(chan struct{})
				old = append(old, key{device, id})
			}
		}
	}
	t.mu.Unlock()
	for _, k := range old {
		t.drop(k.device, k.clientID)
	}
}

// subscribe counts a subscription of the session, and reports false if the
// device would have too many. One that is there already is free.
func (t *connTable) subscribe(l *mqttLink, filter string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	sessions := t.sessions[l.device]
	own := sessions[l.clientID]
	if own == nil || own.link != l {
		return false
	}
	if _, ok := own.filters[filter]; ok {
		return true
	}
	n := 0
	for _, s := range sessions {
		n += len(s.filters)
	}
	if n >= t.limits.Subscriptions {
		return false
	}
	own.filters[filter] = struct{}{}
	return true
}

func (t *connTable) unsubscribe(l *mqttLink, filter string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.sessions[l.device][l.clientID]; s != nil {
		delete(s.filters, filter)
	}
}

// storedFor returns how long a client wants its session to be kept after the
// connection: not at all with a clean session, and as long as we like without,
// for MQTT 3.1.1 cannot say.
func storedFor(c *mqtt.Client) time.Duration {
	if c == nil {
		return 0
	}
	if c.Properties.ProtocolVersion == 5 {
		return time.Duration(c.Properties.Props.SessionExpiryInterval) * time.Second
	}
	if c.Properties.Clean {
		return 0
	}
	return math.MaxInt64
}

// forget removes the library's half of a session. Its own expiry would leave
// the subscriptions in the topic index for ever.
func (b *Broker) forget(clientID string) {
	if client, ok := b.server.Clients.Get(clientID); ok {
		b.server.UnsubscribeClient(client)
		client.ClearInflights()
		b.server.Clients.Delete(clientID)
	}
}
