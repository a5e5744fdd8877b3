package fleet

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

// maxPayload is the largest payload the vendor reads, in octets.
const maxPayload = 64 << 10

// garbage sends noise: octets that are no TLS, payloads that are no requests,
// and requests on topics that are not the device's.
func (o Options) garbage(ctx context.Context, name string, with tls.Certificate, seed uint64) {
	noise := mathrand.New(mathrand.NewPCG(seed, 0))
	var dialer net.Dialer
	if conn, err := dialer.DialContext(ctx, "tcp", o.Broker); err == nil {
		_, _ = conn.Write(octets(noise, 300)) // nobody listens
		_ = conn.Close()
	}
	for _, topics := range [][]string{
		{o.Topics.Request(name, protocol.Get), o.Topics.Request(name, protocol.Ack)},
		{o.Topics.Request(name+"0", protocol.Get)},
		{"$aws/things/" + name + "0/jobs/get"}, {name + "/noise"},
	} {
		s, err := o.connect(ctx, name+"/noise", with)
		if err != nil {
			continue // its clock may be wrong
		}
		for _, topic := range topics {
			for _, size := range []int{1, 200, maxPayload + 1} {
				_ = s.publish(ctx, topic, octets(noise, size)) // dropped, or answered to nobody
			}
			_ = s.publish(ctx, topic, []byte(`{"csr":17,"clientToken":[]}`))
		}
		s.close()
	}
}

// octets returns noise that is no JSON, because it begins with no character.
func octets(noise *mathrand.Rand, n int) []byte {
	all := make([]byte, n)
	for i := range all {
		all[i] = byte(noise.Uint32())
	}
	all[0] = 0xff
	return all
}

// beside is the way to the broker past the wire: what is on its way already
// arrives, whatever becomes of the device.
func (o Options) beside(s *script) Options {
	o.Broker, o.now = s.wire.broker, nil
	return o
}

// duplicate is a request that comes again.
type duplicate struct {
	request []byte
	later   time.Duration // once more
}

// repeat sends a get again, twice and 10 ms apart, and once more later, over
// another connection with the same certificate: MQTT delivers at least once.
func (o Options) repeat(ctx context.Context, name string, with tls.Certificate, again duplicate) {
	topic := o.Topics.Request(name, protocol.Get)
	for _, times := range []int{2, 1} {
		s, err := o.connect(ctx, name+"/again", with)
		if err != nil {
			return // the certificate, or the power, is gone
		}
		for range times {
			token := s.client.Publish(topic, 1, false, again.request)
			_ = pause(ctx, 10*time.Millisecond) // the next wait looks
			_ = s.await(ctx, token)             // whether it arrived is the network's affair
		}
		s.close()
		if times > 1 && pause(ctx, again.later) != nil {
			return
		}
	}
}

// candidateRequest is the get for the key that an agent has just made.
func (o Options) candidateRequest(d Device) ([]byte, error) {
	disk := o.disk(d)
	state, err := readAgent(disk)
	if err != nil || state.Candidate == nil {
		return nil, errors.Join(err, errNoCandidate)
	}
	text, err := os.ReadFile(filepath.Join(disk, "pairs", strconv.Itoa(state.Candidate.Pair), "private.key"))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errNoCandidate
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errNoCandidate
	}
	return requestFor(d.Name, signer)
}

var errNoCandidate = errors.New("no key that waits for its certificate")

// requestFor is the body of a get with a CSR for the key.
func requestFor(name string, key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		return nil, err
	}
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	return json.Marshal(map[string]string{"csr": string(csr)})
}
