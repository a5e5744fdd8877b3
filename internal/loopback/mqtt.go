package loopback

import (
	"errors"
	"net"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
)

// stopTime bounds how long the connections of a server are waited for.
const stopTime = 10 * time.Second

// ServeMQTT has a server take what connects to a listener, until stop is called.
// The library's own listeners let a connection begin while the server is being
// closed, which is a data race in it: here the server is closed when all of its
// connections have ended.
func ServeMQTT(server *mqtt.Server, listener net.Listener) (stop func() error, err error) {
	if err := server.Serve(); err != nil {
		return nil, err
	}
	s := &mqttServing{open: map[net.Conn]struct{}{}}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.serve(server, conn)
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
	mu      sync.Mutex
	open    map[net.Conn]struct{}
	serving sync.WaitGroup
}

func (s *mqttServing) serve(server *mqtt.Server, conn net.Conn) {
	s.mu.Lock()
	s.open[conn] = struct{}{}
	s.mu.Unlock()
	s.serving.Go(func() {
		_ = server.EstablishConnection("mqtt", conn) // the hooks have said why
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, conn)
	})
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
	select {
	case <-ended:
	case <-time.After(stopTime):
	}
}
