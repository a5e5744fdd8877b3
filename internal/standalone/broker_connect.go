package standalone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/time/rate"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// maxClientID is how many octets a client id may have: a device name and as
// much again.
const maxClientID = 256

// turnedAway is why a connection is not accepted, and what it is told.
type turnedAway struct {
	why  Refusal
	code packets.Code // of MQTT 5
	v3   packets.Code // of MQTT 3.1.1
	err  error
}

func (r *turnedAway) Error() string { return string(r.why) + ": " + r.err.Error() }

// handle lives as long as the connection.
func (b *Broker) handle(l *mqttLink) {
	defer b.conns.leave(l)
	defer b.recover(l)
	if !b.door.slot(l, b.stop) {
		return
	}
	l.deadline = time.Now().Add(b.limits.Handshake)
	if err := b.handshake(l); err != nil {
		why := refusalOf(err)
		b.counts.refuse(why)
		b.config.Log.Debug().Str("why", string(why)).Str("from", addressOf(l.raw).String()).Err(err).Msg("connection refused")
		return
	}
	l.heard.Store(time.Now().UnixNano())
	err := b.server.EstablishConnection("mqtt", l)
	if !l.accepted.Load() && !errors.As(err, new(*turnedAway)) {
		b.counts.refuse(RefusedConnect)
	}
	l.kill()
}

// handshake speaks TLS. The deadline holds on until the CONNECT is accepted.
func (b *Broker) handshake(l *mqttLink) error {
	if err := l.raw.SetDeadline(l.deadline); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	l.trust = b.trust()
	conn := tls.Server(l.raw, b.tls)
	if err := conn.HandshakeContext(b.serving); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	l.secure(conn, b.config.Now())
	return nil
}

func refusalOf(err error) Refusal {
	switch {
	case errors.Is(err, errCertificateExpired):
		return RefusedExpired
	case errors.Is(err, errCertificateUntrusted):
		return RefusedUntrusted
	}
	return RefusedTLS
}

// recover keeps what one device sent from ending everybody's daemon.
func (b *Broker) recover(l *mqttLink) {
	if p := recover(); p != nil {
		l.kill()
		b.counts.panics.Add(1)
		b.config.Log.Error().Str("device", string(l.device)).Interface("panic", p).Bytes("stack", debug.Stack()).Msg("connection ended by a bug")
	}
}

// connect accepts a CONNECT, or says why not. The order matters: the
// connection is entered under its certificate before the receiver looks at
// the certificate's standing, and displaces nobody before that.
func (b *Broker) connect(l *mqttLink, client *mqtt.Client, pk packets.Packet) *turnedAway {
	if refused := b.checkConnect(pk); refused != nil {
		return refused
	}
	name, _, _ := strings.Cut(pk.Connect.ClientIdentifier, "/")
	device, err := registry.ParseDeviceID(name)
	if err != nil {
		return badClientID(err)
	}
	l.device, l.clientID, l.client = device, pk.Connect.ClientIdentifier, client
	l.jobs = rate.NewLimiter(rate.Limit(b.limits.JobRequests), int(2*b.limits.JobRequests)+1)
	// The library sends an alias in place of a topic even if the message that
	// would have introduced it was dropped.
	client.Properties.Props.TopicAliasMaximum = 0

	ctx, cancel := context.WithDeadline(b.serving, l.deadline)
	defer cancel()
	b.conns.enter(l)
	// A CA may have been retired since the handshake.
	if l.trust != b.trust() && !b.trusts(l) {
		return &turnedAway{RefusedUntrusted, packets.ErrNotAuthorized, packets.Err3NotAuthorized, errCertificateUntrusted}
	}
	if b.config.Adopt != nil {
		if err := b.config.Adopt(ctx, device, l.leaf); err != nil {
			return &turnedAway{RefusedStanding, packets.ErrNotAuthorized, packets.Err3NotAuthorized, err}
		}
	}
	if err := b.receiver.Present(ctx, l.caller(certificate.Presence)); err != nil {
		return &turnedAway{RefusedStanding, packets.ErrNotAuthorized, packets.Err3NotAuthorized, err}
	}
	if err := b.conns.claim(ctx, l); err != nil {
		return &turnedAway{RefusedBusy, packets.ErrServerBusy, packets.Err3ServerUnavailable, err}
	}
	b.door.finish(l)
	return nil
}

// checkConnect refuses what AWS IoT or this broker does not have.
func (b *Broker) checkConnect(pk packets.Packet) *turnedAway {
	keepalive := time.Duration(pk.Connect.Keepalive) * time.Second
	switch {
	case pk.Connect.ClientIdentifier == "":
		return badClientID(errors.New("it is empty"))
	case len(pk.Connect.ClientIdentifier) > maxClientID:
		return badClientID(fmt.Errorf("it has more than %d octets", maxClientID))
	case pk.Connect.WillFlag:
		// The library publishes wills without asking the topic rules.
		return notAuthorized(RefusedWill, errors.New("wills are not supported"))
	case keepalive == 0, keepalive > b.limits.Keepalive:
		return notAuthorized(RefusedKeepalive, fmt.Errorf("the keepalive must be from 1 s to %s", b.limits.Keepalive))
	}
	return nil
}

func badClientID(err error) *turnedAway {
	return &turnedAway{RefusedClientID, packets.ErrClientIdentifierNotValid, packets.Err3ClientIdentifierNotValid, fmt.Errorf("client id: %w", err)}
}

func notAuthorized(why Refusal, err error) *turnedAway {
	return &turnedAway{why, packets.ErrNotAuthorized, packets.Err3NotAuthorized, err}
}

// turnAway tells the client, counts and logs.
func (b *Broker) turnAway(l *mqttLink, client *mqtt.Client, refused *turnedAway) {
	b.counts.refuse(refused.why)
	b.config.Log.Info().Str("why", string(refused.why)).Str("device", string(l.device)).Str("certificate", string(l.certificate)).
		Err(refused.err).Msg("connection refused")
	code := refused.code
	if client.Properties.ProtocolVersion < 5 {
		code = refused.v3
	}
	if b.server.SendConnack(client, code, false, nil) == nil {
		l.linger()
	}
}
