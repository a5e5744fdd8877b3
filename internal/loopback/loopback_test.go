package loopback

import (
	"net"
	"sync"
	"testing"
)

func TestAddressIsGivenOnce(t *testing.T) {
	var all sync.WaitGroup
	var mu sync.Mutex
	given := map[string]bool{}
	for range 200 {
		all.Go(func() {
			address, err := Address()
			mu.Lock()
			defer mu.Unlock()
			if err != nil || given[address] {
				t.Errorf("%q again, or %v", address, err)
			}
			given[address] = true
		})
	}
	all.Wait()
}

func TestAddressLeavesWhatIsListenedOn(t *testing.T) {
	address, err := Address()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the address is not free: %v", err)
	}
	defer func() { _ = listener.Close() }()
	if reserve(address) {
		t.Error("an address in use was given out")
	}
}
