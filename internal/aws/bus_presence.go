package aws

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// presenceFilter matches the event of every client that connects, also of one
// whose client id has slashes in it. Devices cannot publish there.
const presenceFilter = "$aws/events/presence/connected/#"

// connected is the event of a client that has connected. More members are in
// it, and AWS may add some.
type connected struct {
	ClientID  string `json:"clientId"`
	ThingName string `json:"thingName"` // where the certificate is this thing's alone
	EventType string `json:"eventType"`
	Timestamp int64  `json:"timestamp"` // milliseconds
	Principal string `json:"principalIdentifier"`
}

// takePresence hands on that a device has connected. Events are evidence and
// nothing more: one too many is let go, since the device's next request says
// the same.
func (b *MQTTBus) takePresence(k *link, m mqtt.Message) {
	defer m.Ack()
	if !b.enter() {
		return
	}
	defer b.leave()
	if !k.begin(b.config.Backlog) {
		b.counts.overrun.Add(1)
		return
	}
	defer k.end()
	caller, ok := readPresence(m.Payload(), b.config.Now())
	if !ok {
		b.counts.strangers.Add(1)
		return
	}
	b.present(caller)
}

// present hands on one connection.
func (b *MQTTBus) present(caller vending.Caller) {
	if err := b.receiver.Present(b.serving, caller); err != nil {
		// Most of them are clients that are no devices of ours.
		b.counts.strangers.Add(1)
		b.config.Log.Debug().Err(err).Str("device", string(caller.Device)).Msg("a connection that says nothing")
		return
	}
	b.counts.presence.Add(1)
}

// lookFor hands on, before an ack, with which certificates its device has
// connected: the one that it acks may be among them.
func (b *MQTTBus) lookFor(topic string) {
	thing, action, ok := b.config.Topics.Parse(topic)
	device, err := registry.ParseDeviceID(thing)
	if b.config.Table == nil || !ok || action != protocol.Ack || err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(b.serving, seenTime)
	defer cancel()
	callers, _, err := b.config.Table.Of(ctx, device)
	if err != nil {
		// The ack is taken as it is, and the device looked for later.
		b.config.Log.Warn().Err(err).Msg("an ack is taken without a look at who has connected")
		return
	}
	for _, caller := range callers {
		b.present(caller)
	}
}

// readPresence returns who has connected, and false for what is no connection
// with a certificate by a client that could be a device. Events come late,
// twice and out of order: what counts is the time that is in them.
func readPresence(payload []byte, now time.Time) (vending.Caller, bool) {
	var e connected
	if json.Unmarshal(payload, &e) != nil || e.EventType != "connected" || e.Timestamp <= 0 {
		return vending.Caller{}, false
	}
	name := e.ThingName
	if name == "" {
		name, _, _ = strings.Cut(e.ClientID, "/")
	}
	device, err := registry.ParseDeviceID(name)
	if err != nil {
		return vending.Caller{}, false
	}
	id, err := certificate.ParseID(e.Principal)
	if err != nil {
		return vending.Caller{}, false
	}
	return vending.Caller{
		Device: device, Certificate: id, Evidence: certificate.Presence, At: notAfter(time.UnixMilli(e.Timestamp), now),
	}, true
}

// notAfter keeps another machine's clock from saying that something will
// happen.
func notAfter(t, now time.Time) time.Time {
	if t.After(now) {
		return now
	}
	return t
}
