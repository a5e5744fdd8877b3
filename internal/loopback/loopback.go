// Package loopback gives tests the addresses that their daemons listen on.
package loopback

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// The system gives no port below its ephemeral range (32768 on Linux) to a
// connection of its own choice, so what is free there stays free until a test
// takes it, also while its daemon is being restarted.
const (
	lowest  = 20_000
	highest = 32_000
	tries   = 200
)

// Address returns an address of the loopback on which nobody listens over TCP.
// No later call, in this process or another, returns it as long as this
// process lives: the UDP port of the same number, which no test needs, is kept
// bound as the sign that it is taken. Calls may run at the same time.
func Address() (string, error) {
	for range tries {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(lowest+rand.IntN(highest-lowest)))
		if reserve(address) {
			return address, nil
		}
	}
	return "", errors.New("no free port on the loopback")
}

// reserved keeps the signs from being collected, and so closed.
var reserved = make(chan net.PacketConn, highest-lowest)

func reserve(address string) bool {
	sign, err := net.ListenPacket("udp", address)
	if err != nil {
		return false
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		_ = sign.Close()
		return false
	}
	reserved <- sign
	return listener.Close() == nil
}
