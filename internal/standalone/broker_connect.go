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

// handle lives as long as the connection. Its goroutine waits for packets and
// does nothing else, for what it once needed of stack it would keep: the crew
// does the work.
func (b *Broker) handle(l *mqttLink) {
	defer b.crew.Do(func() { b.conns.leave(l) })
	if !b.door.slot(l, b.stop) {
		return
	}
	var header packets.FixedHeader
	for goesOn := b.do(l, b.admit); goesOn; {
		header = packets.FixedHeader{}
		if err := l.next(&header); err != nil {
			break
		}
		goesOn = b.do(l, func(l *mqttLink) bool { return b.packet(l, &header) })
	}
	l.kill()
	if l.client != nil {
		l.client.Stop(nil)
	}
}

// do has the crew work for a connection, and reports whether it goes on.
func (b *Broker) do(l *mqttLink, work func(*mqttLink) bool) (goesOn bool) {
	b.crew.Do(func() {
		defer b.recover(l)
		goesOn = work(l)
	})
	return goesOn
}

// admit speaks TLS, reads the CONNECT and answers it. It reports whether the
// connection is accepted.
func (b *Broker) admit(l *mqttLink) bool {
	l.deadline = time.Now().Add(b.limits.Handshake)
	if err := b.handshake(l); err != nil {
		why := refusalOf(err)
		b.counts.refuse(why)
		b.config.Log.Debug().Str("why", string(why)).Str("from", addressOf(l.raw).String()).Err(err).Msg("connection refused")
		return false
	}
	l.heard.Store(time.Now().UnixNano())
	client := b.server.NewClient(l, "mqtt", "", false)
	l.client = client
	pk, code, err := readConnect(client)
	if code != packets.CodeSuccess {
		err = errors.Join(err, b.server.SendConnack(client, code, false, nil), code)
	}
	if err != nil {
		b.counts.refuse(RefusedConnect)
		return false
	}
	if refused := b.connect(l, client, pk); refused != nil {
		b.turnAway(l, client, refused)
		return false
	}
	return b.welcome(l, client, pk.Connect.Clean)
}

// readConnect returns the CONNECT, and the code to refuse it with if it is not
// what the standard allows.
func readConnect(client *mqtt.Client) (pk packets.Packet, code packets.Code, err error) {
	var header packets.FixedHeader
	if err := client.ReadFixedHeader(&header); err != nil {
		return pk, packets.CodeSuccess, err
	}
	if header.Type != packets.Connect {
		return pk, packets.CodeSuccess, packets.ErrProtocolViolationRequireFirstConnect
	}
	pk, err = client.ReadPacket(&header)
	if err != nil {
		return pk, packets.CodeSuccess, err
	}
	client.ParseConnect("mqtt", pk)
	return pk, pk.ConnectValidate(), nil
}

// welcome gives an accepted connection its session, tells the client, and sends
// what the session holds. Messages that come meanwhile wait behind the CONNACK. A
// session that was to end with the former connection has ended with it, also where
// this one took over from it (MQTT 3.1.1, 3.1.2.4).
func (b *Broker) welcome(l *mqttLink, client *mqtt.Client, clean bool) bool {
	former, resumed := b.server.Clients.Get(client.ID)
	if resumed && (clean || storedFor(former) <= 0) {
		b.forget(client.ID)
		resumed = false
	}
	if resumed {
		// The former connection has ended. Who still delivers to it finds this
		// one, or is found in what the session holds.
		client.State.Inflight, client.State.Subscriptions = former.State.Inflight, former.State.Subscriptions
	}
	b.server.Clients.Add(client)
	held := client.State.Inflight.GetAll(false)
	if err := b.server.SendConnack(client, packets.CodeSuccess, resumed, nil); err != nil {
		return false
	}
	l.outbox.open(int(client.Properties.Props.ReceiveMaximum), held)
	b.flush(l)
	return true
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
	l.device, l.clientID = device, pk.Connect.ClientIdentifier
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
