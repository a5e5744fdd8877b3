package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/control"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
)

// askOn repeats one request as long as daemons are killed, and notes every
// certificate that it is given. Then it acks over the last.
func (f *crashFleet) askOn(ctx context.Context, c *crashed) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	csr, err := control.NewRequest(key.signer, registry.DeviceID(c.name))
	if err != nil {
		return err
	}
	request, err := json.Marshal(map[string]string{"csr": csr})
	if err != nil {
		return err
	}
	for calm := false; !calm || len(c.received) == 0; {
		select {
		case <-ctx.Done():
			return fmt.Errorf("device %s: %w", c.name, ctx.Err())
		case <-f.calm:
			calm = true
		case <-time.After(50 * time.Millisecond):
		}
		var vended protocol.GetAccepted
		reply, err := f.ask(ctx, c.name, c.first, protocol.Get, request)
		if err != nil {
			continue // nobody is there, or no more
		}
		if err := protocol.Decode(reply, &vended); err != nil {
			return err
		}
		block, _ := pem.Decode([]byte(vended.Certificate))
		if block == nil {
			return fmt.Errorf("device %s: no certificate in %s", c.name, reply)
		}
		c.next = tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key.signer}
		c.note(string(certificate.IDOf(block.Bytes)))
	}
	for ctx.Err() == nil {
		if _, err := f.ask(ctx, c.name, c.next, protocol.Ack, []byte("{}")); err == nil {
			return nil
		}
	}
	return fmt.Errorf("device %s: its ack: %w", c.name, ctx.Err())
}

// ask sends one request over a connection of its own, and returns what it was
// granted.
func (f *crashFleet) ask(ctx context.Context, name string, pair tls.Certificate, action protocol.Action, request []byte) ([]byte, error) {
	topics, replies := protocol.DefaultTopics(), make(chan mqtt.Message, 8)
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tls://broker").SetClientID(name + "/asks").
		SetProtocolVersion(4).SetAutoReconnect(false).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) {
			dialer := tls.Dialer{Config: &tls.Config{
				MinVersion: tls.VersionTLS12, RootCAs: f.target.Roots, ServerName: "127.0.0.1", Certificates: []tls.Certificate{pair},
				CurvePreferences: []tls.CurveID{tls.CurveP256}, // the cheapest, for there are many
			}}
			return dialer.DialContext(ctx, "tcp", f.broker)
		}))
	if token := client.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		return nil, errors.Join(errors.New("not connected"), token.Error())
	}
	defer client.Disconnect(0)
	hear := func(_ mqtt.Client, m mqtt.Message) { replies <- m }
	if token := client.Subscribe(topics.Request(name, action)+"/+", 1, hear); !token.WaitTimeout(3*time.Second) || token.Error() != nil {
		return nil, errors.Join(errors.New("not subscribed"), token.Error())
	}
	if token := client.Publish(topics.Request(name, action), 1, false, request); !token.WaitTimeout(3*time.Second) || token.Error() != nil {
		return nil, errors.Join(errors.New("not acknowledged"), token.Error())
	}
	select {
	case m := <-replies:
		if m.Topic() != topics.Accepted(name, action) {
			return nil, fmt.Errorf("refused: %s", m.Payload())
		}
		return m.Payload(), nil
	case <-time.After(3 * time.Second):
		return nil, errors.New("no reply")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
