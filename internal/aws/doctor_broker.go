package aws

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"strings"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/rs/zerolog"
)

// broker connects as the daemon would, under a client id beside its own, and
// asks for its filters.
func (d *Doctor) broker(ctx context.Context) Finding {
	s := d.config.Scope
	bus, err := NewMQTTBus(MQTTConfig{
		Way: d.config.Way, ClientID: s.ClientID + examines, Topics: s.Topics, Identity: s.Identity, Inbox: s.Inbox,
		Keys: anyKeys(s.Identity), Now: d.config.Now, Log: zerolog.Nop(),
	})
	if err != nil {
		return bad("", "%v", err)
	}
	look := &line{bus: bus, name: "examines", clientID: s.ClientID + examines, clean: true, filters: bus.config.filters(),
		take: func(*link, mqtt.Message) {}}
	k, err := look.open(ctx)
	var network net.Error
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &network), errors.As(err, &untrusted):
		return bad("look at aws.broker, and at the network", "%v", err)
	case err != nil:
		return unknown("see whether the daemon is ready, and whether the policy that certvendor policy daemon prints is the one in use: it lets connect as "+look.clientID, "%v", err)
	}
	k.client.Disconnect(quiesce)
	return good("connects to %s as %s, and may subscribe to %s", d.config.Endpoint, look.clientID, strings.Join(look.filters, ", "))
}

// examines is added to the daemon's client id: a connection under that itself
// would take the daemon's away.
const examines = "-doctor"

// anyKeys open nothing: whoever examines takes no message.
func anyKeys(identity Identity) []RuleKey {
	if identity == Direct {
		return nil
	}
	return []RuleKey{NewRuleKey()}
}

func sorted(all []string) string {
	slices.Sort(all)
	return strings.Join(all, ", ")
}
