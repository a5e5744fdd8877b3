package loopback

import (
	"errors"
	"net"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// stopTime bounds how long the end of a connection is waited for.
const stopTime = 10 * time.Second

// ServeMQTT has a server take what connects to a listener, until stop is called.
// It keeps a test from two faults of the library. A connection that begins while
// the server is being closed is a data race in it: here the server is closed when
// all of its connections have ended. And a connection that ends while another
// takes its client id can take that one out of the server, which then hears it
// and answers nothing any more: here the second waits for the end of the first.
func ServeMQTT(server *mqtt.Server, listener net.Listener) (stop func() error, err error) {
	s := &mqttServing{server: server, open: map[net.Conn]chan struct{}{}}
	if err := server.AddHook(s, nil); err != nil {
		return nil, err
	}
	if err := server.Serve(); err != nil {
		return nil, err
	}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.serve(conn)
		}
	})
	return sync.OnceValue(func() error {
		err := listener.Close()
		accepting.Wait()
		s.end()
		return errors.Join(err, server.Close())
	}), nil
}

type mqttServing struct {
	mqtt.HookBase
	server *mqtt.Server

	mu      sync.Mutex
	open    map[net.Conn]chan struct{} // closed when the connection has ended
	serving sync.WaitGroup
}

func (s *mqttServing) serve(conn net.Conn) {
	ended := make(chan struct{})
	s.mu.Lock()
	s.open[conn] = ended
	s.mu.Unlock()
	s.serving.Go(func() {
		_ = s.server.EstablishConnection("mqtt", conn) // the hooks have said why
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, conn)
		close(ended)
	})
}

func (s *mqttServing) ID() string { return "one connection of a client id at a time" }

func (s *mqttServing) Provides(what byte) bool { return what == mqtt.OnSessionEstablish }

// OnSessionEstablish ends whoever has the client id of a connection that the
// server is about to take, and waits until he has gone.
func (s *mqttServing) OnSessionEstablish(client *mqtt.Client, _ packets.Packet) {
	former, is := s.server.Clients.Get(client.ID)
	if !is {
		return
	}
	s.mu.Lock()
	ended, is := s.open[former.Net.Conn]
	s.mu.Unlock()
	if is {
		_ = s.server.DisconnectClient(former, packets.ErrSessionTakenOver)
		await(ended)
	}
}

func (s *mqttServing) end() {
	s.mu.Lock()
	for conn := range s.open {
		_ = conn.Close()
	}
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		s.serving.Wait()
		close(ended)
	}()
	await(ended)
}

func await(ended <-chan struct{}) {
	select {
	case <-ended:
	case <-time.After(stopTime):
	}
}
