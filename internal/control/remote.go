package control

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
)

// Remote says where operators are answered over TCP, where no Unix socket
// reaches the daemon, as from outside of a container. Each shows a certificate
// of a CA for operators; what it may do is a matter of its common name.
type Remote struct {
	Listen string // host:port; empty: nobody is answered over TCP
	// Certificate returns the server's certificate, for each connection.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Operators   *x509.CertPool // who signs operators' certificates
	// ForDevices reports whether a CA signs for devices. Nobody whom such a CA
	// stands for is an operator, whatever it is below.
	ForDevices func(ca *x509.Certificate) bool
	// Role returns what somebody of this common name may do; empty: nothing.
	Role func(commonName string) Role
}

// maxRemote is how many connections there are at a time at most, so that
// strangers who connect leave file descriptors to devices.
const maxRemote = 128

func (r Remote) listen(ctx context.Context) (net.Listener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", r.Listen)
	if err != nil {
		return nil, fmt.Errorf("control.tls.listen: %w", err)
	}
	return tls.NewListener(&bounded{listener, make(chan struct{}, maxRemote)}, &tls.Config{
		MinVersion: tls.VersionTLS12, GetCertificate: r.Certificate,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: r.Operators,
		VerifyConnection:       r.refuseDevices,
		SessionTicketsDisabled: true, // whoever is not trusted any more must not resume
	}), nil
}

func (r Remote) refuseDevices(state tls.ConnectionState) error {
	for _, chain := range state.VerifiedChains {
		if slices.ContainsFunc(chain, r.ForDevices) {
			return fmt.Errorf("certificate %q is a device's", chain[0].Subject.CommonName)
		}
	}
	return nil
}

// bounded lets so many connections be open as slots has room for.
type bounded struct {
	net.Listener
	slots chan struct{}
}

// Accept takes connections beyond the bound too, and closes them at once: one
// that waited for a slot would keep the listener from being closed.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case b.slots <- struct{}{}:
			return &slotted{Conn: conn, free: sync.OnceFunc(func() { <-b.slots })}, nil
		default:
			_ = conn.Close() // a stranger, or one of too many operators
		}
	}
}

type slotted struct {
	net.Conn
	free func()
}

func (s *slotted) Close() error {
	defer s.free()
	return s.Conn.Close()
}

// Role is what an operator may do. Each may do what the one before it may.
type Role string

// The roles.
const (
	Viewer   Role = "viewer"   // see everything, change nothing
	Operator Role = "operator" // rotate: groups, campaigns, packages, freeze and thaw, retry and undo
	Admin    Role = "admin"    // let devices in and take them out, revoke, the CA, backups
)

var ranks = []Role{Viewer, Operator, Admin}

func (r Role) may(need Role) bool {
	has := slices.Index(ranks, r)
	return has >= 0 && has >= slices.Index(ranks, need)
}

// needs says which role each route takes. A route that is not here takes an
// Admin: what is forgotten is closed.
var needs = map[string]Role{
	"GET /v1/ready":                    Viewer,
	"GET /v1/devices":                  Viewer,
	"GET /v1/devices/{name}":           Viewer,
	"GET /v1/devices/{name}/explain":   Viewer,
	"GET /v1/fleet":                    Viewer,
	"GET /v1/survey":                   Viewer,
	"GET /v1/inventory":                Viewer,
	"GET /v1/certificates":             Viewer,
	"GET /v1/certificates/{id}":        Viewer,
	"GET /v1/members":                  Viewer,
	"GET /v1/rotations":                Viewer,
	"GET /v1/stuck":                    Viewer,
	"GET /v1/status":                   Viewer,
	"GET /v1/packages":                 Viewer,
	"GET /v1/job":                      Viewer,
	"GET /v1/ca":                       Viewer,
	"GET /v1/ca/server/missing":        Viewer,
	"GET /v1/frozen":                   Viewer,
	"POST /v1/audit/verify":            Viewer,
	"POST /v1/campaigns/plan":          Viewer,
	"GET /v1/campaigns":                Viewer,
	"GET /v1/campaigns/{name}":         Viewer,
	"GET /v1/campaigns/{name}/members": Viewer,

	"POST /v1/inventory/sync":          Operator,
	"POST /v1/inventory/names":         Operator,
	"POST /v1/inventory/stop":          Operator,
	"POST /v1/inventory/look/{name}":   Operator,
	"POST /v1/members":                 Operator,
	"POST /v1/members/remove":          Operator,
	"POST /v1/devices/{name}/block":    Operator,
	"POST /v1/devices/{name}/unblock":  Operator,
	"POST /v1/rotations/retry":         Operator,
	"POST /v1/rotations/abandon":       Operator,
	"POST /v1/rotations/undo":          Operator,
	"POST /v1/sweep":                   Operator,
	"POST /v1/job":                     Operator,
	"POST /v1/jobs/{id}/cancel":        Operator,
	"POST /v1/packages/{name}":         Operator,
	"POST /v1/freeze":                  Operator,
	"POST /v1/thaw":                    Operator,
	"POST /v1/campaigns":               Operator,
	"POST /v1/campaigns/{name}/pause":  Operator,
	"POST /v1/campaigns/{name}/resume": Operator,
	"POST /v1/campaigns/{name}/cancel": Operator,
	"POST /v1/ca/crl":                  Operator,

	"POST /v1/devices":             Admin,
	"POST /v1/devices/adopt":       Admin,
	"DELETE /v1/devices/{name}":    Admin,
	"PUT /v1/packages/{name}":      Admin,
	"POST /v1/certificates/revoke": Admin,
	"POST /v1/ca/csr":              Admin,
	"POST /v1/ca/import":           Admin,
	"POST /v1/ca/rotate":           Admin,
	"POST /v1/ca/retire":           Admin,
	"POST /v1/ca/server/prepare":   Admin,
	"POST /v1/ca/server/use":       Admin,
	"POST /v1/ca/server/abandon":   Admin,
	"POST /v1/profile":             Admin,
	backupRoute:                    Admin,
}

// guard lets a request through whose sender may send it, and notes who that is.
// Whoever could open the Unix socket may do everything.
func (s *Server) guard(routes *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			routes.ServeHTTP(w, r)
			return
		}
		who := r.TLS.PeerCertificates[0]
		r = r.WithContext(context.WithValue(r.Context(), peerKey{}, describe(who)))
		_, pattern := routes.Handler(r)
		if role := s.remote.Role(who.Subject.CommonName); !role.may(need(pattern)) {
			reply(w, r, func(*http.Request) (any, error) {
				return nil, refuse(http.StatusForbidden, "%s may not do this: it takes the role %s, and has %s",
					who.Subject.CommonName, need(pattern), named(role))
			})
			return
		}
		routes.ServeHTTP(w, r)
	})
}

func need(pattern string) Role {
	if role, ok := needs[pattern]; ok {
		return role
	}
	return Admin
}

func named(r Role) string {
	if r == "" {
		return "none"
	}
	return string(r)
}

// describe says for the audit whose certificate it is.
func describe(c *x509.Certificate) string {
	return fmt.Sprintf("certificate %q serial %x of %q", c.Subject.CommonName, c.SerialNumber, c.Issuer.CommonName)
}

// withoutStrangers writes what the HTTP server has to say to the standard
// error, but not who hung up in a handshake.
type withoutStrangers struct{}

func (withoutStrangers) Write(line []byte) (int, error) {
	if bytes.HasPrefix(line, []byte("http: TLS handshake error")) {
		return len(line), nil
	}
	return os.Stderr.Write(line)
}
