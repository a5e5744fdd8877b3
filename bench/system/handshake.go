package system

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"time"

	"github.com/certvendor/certvendor/bench/load"
)

// handshakesAtOnce is how many connections are being made at a time.
const handshakesAtOnce = 32

// Handshakes returns how many mTLS connections a second this machine can make,
// both ends of them, with P-256 certificates and TLS 1.3, over loopback. No
// session is resumed, as a device's new certificate asks for a whole handshake.
func Handshakes(ca *CA, lasts time.Duration) (perSecond float64, err error) {
	ends, err := handshakeConfigs(ca)
	if err != nil {
		return 0, err
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", ends.server)
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go answerOne(conn)
		}
	}()
	result, err := load.Loop(handshakesAtOnce, lasts, func(int) error {
		conn, err := tls.Dial("tcp", listener.Addr().String(), ends.client)
		if err != nil {
			return err
		}
		// The server has verified the client's certificate when it answers.
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			return err
		}
		return conn.Close()
	})
	return result.Rate(), err
}

func answerOne(conn net.Conn) {
	_, _ = conn.Write([]byte{1})      // the handshake comes before it
	_, _ = conn.Read(make([]byte, 1)) // until the client hangs up
	_ = conn.Close()
}

type handshakeEnds struct{ server, client *tls.Config }

func handshakeConfigs(ca *CA) (handshakeEnds, error) {
	pool := x509.NewCertPool()
	pool.AddCert(ca.Issuer)
	pair := func(usage x509.ExtKeyUsage) (tls.Certificate, error) {
		key, err := P256()
		if err != nil {
			return tls.Certificate{}, err
		}
		template := leaf("localhost")
		template.ExtKeyUsage, template.DNSNames = []x509.ExtKeyUsage{usage}, []string{"localhost"}
		made, err := sign(template, ca.Issuer, key.Public(), ca.Key)
		if err != nil {
			return tls.Certificate{}, err
		}
		return tls.Certificate{Certificate: [][]byte{made.Raw}, PrivateKey: key, Leaf: made}, nil
	}
	server, err := pair(x509.ExtKeyUsageServerAuth)
	if err != nil {
		return handshakeEnds{}, err
	}
	client, err := pair(x509.ExtKeyUsageClientAuth)
	if err != nil {
		return handshakeEnds{}, err
	}
	return handshakeEnds{
		server: &tls.Config{
			Certificates: []tls.Certificate{server}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
			MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		},
		client: &tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: []tls.Certificate{client}, MinVersion: tls.VersionTLS13},
	}, nil
}
