package loopback

import (
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// slowEnd lets everybody in, and holds up the first connection that ends where the
// library has decided to take its client id out of the server.
type slowEnd struct {
	mqtt.HookBase
	begun  atomic.Bool
	ending chan struct{}
	goOn   <-chan time.Time
}

func (h *slowEnd) ID() string { return "slow end" }

func (h *slowEnd) Provides(what byte) bool {
	return what == mqtt.OnConnectAuthenticate || what == mqtt.OnACLCheck || what == mqtt.OnUnsubscribed
}

func (h *slowEnd) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

func (h *slowEnd) OnACLCheck(*mqtt.Client, string, bool) bool { return true }

func (h *slowEnd) OnUnsubscribed(*mqtt.Client, packets.Packet) {
	if h.begun.CompareAndSwap(false, true) {
		close(h.ending)
		<-h.goOn
	}
}

// A client that comes back under its id while its former connection still ends
// hears what is published.
func TestWhoComesBackIsServed(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := mqtt.New(&mqtt.Options{InlineClient: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	slow := &slowEnd{ending: make(chan struct{}), goOn: time.After(300 * time.Millisecond)}
	if err := server.AddHook(slow, nil); err != nil {
		t.Fatal(err)
	}
	stop, err := ServeMQTT(server, listener)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stop() }()

	heard := make(chan struct{}, 1)
	connect := func() paho.Client {
		c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + listener.Addr().String()).SetClientID("thing001").SetAutoReconnect(false))
		if token := c.Connect(); !token.WaitTimeout(stopTime) || token.Error() != nil {
			t.Fatalf("not connected: %v", token.Error())
		}
		return c
	}
	connect().Disconnect(0)
	<-slow.ending
	again := connect()
	defer again.Disconnect(0)
	token := again.Subscribe("a", 1, func(paho.Client, paho.Message) { heard <- struct{}{} })
	if !token.WaitTimeout(stopTime) || token.Error() != nil {
		t.Fatalf("not subscribed: %v", token.Error())
	}
	time.Sleep(400 * time.Millisecond) // by now the former connection has ended, however it did
	if err := server.Publish("a", []byte("hello"), false, 1); err != nil {
		t.Fatal(err)
	}
	select {
	case <-heard:
	case <-time.After(stopTime):
		t.Fatal("who came back is not served")
	}
}
