package control

import (
	"crypto/tls"
	"maps"
	"net"
	"slices"
	"testing"
)

// A route without a role takes an Admin, which nobody may have meant.
func TestEveryRouteHasARole(t *testing.T) {
	s := new(Server)
	routes := slices.Collect(maps.Keys(s.answers()))
	routes = append(routes, backupRoute)
	for _, route := range routes {
		if _, ok := needs[route]; !ok {
			t.Errorf("%s: add its role to needs", route)
		}
	}
	for route := range needs {
		if !slices.Contains(routes, route) {
			t.Errorf("%s has a role and is no route", route)
		}
	}
	if need("POST /v1/unheard-of") != Admin {
		t.Error("a route that is not known does not take an Admin")
	}
}

func TestRoles(t *testing.T) {
	for _, tc := range []struct {
		has, need Role
		may       bool
	}{
		{Admin, Viewer, true}, {Admin, Admin, true}, {Operator, Operator, true}, {Operator, Admin, false},
		{Viewer, Viewer, true}, {Viewer, Operator, false}, {"", Viewer, false}, {"root", Viewer, false},
	} {
		if got := tc.has.may(tc.need); got != tc.may {
			t.Errorf("%q for %q: %t", tc.has, tc.need, got)
		}
	}
}

// Strangers who connect and say nothing cannot take more than their share of
// the daemon's file descriptors.
func TestStrangersAreBounded(t *testing.T) {
	r := Remote{Listen: "127.0.0.1:0", Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }}
	listener, err := r.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	accepted := make(chan net.Conn, maxRemote+1)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- conn
		}
	}()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	for range maxRemote {
		dial()
	}
	first := <-accepted
	for range maxRemote - 1 {
		defer func(conn net.Conn) { _ = conn.Close() }(<-accepted)
	}
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("one too many is let in")
	}
	for range 2 {
		_ = first.Close() // its slot is given back once
	}
	dial()
	defer func(conn net.Conn) { _ = conn.Close() }(<-accepted)
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("a slot was given back twice")
	}
}
