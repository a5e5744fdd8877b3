package app_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// TestRequestNoise sends, over the wire, what no firmware means. Each request
// gets exactly one reply, whose reason is always the same, and nothing is
// registered for it.
func TestRequestNoise(t *testing.T) {
	w := start(t, func(c *config.Config) { c.Limits.Burst = 1000 })
	noisy, other := w.actor(t, "noisy"), w.actor(t, "other")
	p := w.open(t, "noisy", "noisy", noisy.old)
	good := newCSR(t, newKey(t), "noisy")
	cases := []struct {
		name    string
		payload string
		get     protocol.Reason
		ack     protocol.Reason // empty: not asked, since it is an ack like any other
	}{
		{"text", "ping", protocol.Malformed, protocol.Malformed},
		{"a NUL", "\x00", protocol.Malformed, protocol.Malformed},
		{"binary", "\x1f\x8b\x08\x00\xff\xfe", protocol.Malformed, protocol.Malformed},
		{"an array", "[]", protocol.Malformed, protocol.Malformed},
		{"null", "null", protocol.Malformed, protocol.Malformed},
		{"cut short", `{"csr":"`, protocol.Malformed, protocol.Malformed},
		{"two objects", "{}{}", protocol.Malformed, protocol.Malformed},
		{"invalid UTF-8", "{\"csr\":\"\xff\"}", protocol.Malformed, protocol.Malformed},
		{"deep nesting", `{"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, protocol.Malformed, protocol.Malformed},
		{"more than 64 KiB", `{"x":"` + strings.Repeat("a", protocol.MaxPayload) + `"}`, protocol.Malformed, protocol.Malformed},
		{"duplicate keys", `{"csr":"a","csr":"b"}`, protocol.Malformed, protocol.Malformed},
		{"duplicate keys, one a good request", `{"x":1,"x":2,` + body(t, "csr", good)[1:], protocol.Malformed, protocol.Malformed},
		{"an empty CSR", `{"csr":""}`, protocol.Malformed, ""},
		{"a number", `{"csr":5}`, protocol.Malformed, ""},
		{"a list", `{"csr":[]}`, protocol.Malformed, ""},
		{"blanks", `{"csr":"  "}`, protocol.CSRRejected, ""},
		{"not PEM", `{"csr":"MIIB"}`, protocol.CSRRejected, ""},
		{"two requests in one", body(t, "csr", good+good), protocol.CSRRejected, ""},
		{"a certificate", body(t, "csr", certificatePEM(noisy.old)), protocol.CSRRejected, ""},
		{"RSA of 1024 bits", body(t, "csr", hugeCSR(t, 1024)), protocol.CSRRejected, ""},
		{"RSA of 95,000 bits", body(t, "csr", hugeCSR(t, 95_000)), protocol.CSRRejected, ""},
		{"RSA of 100,000 bits", body(t, "csr", hugeCSR(t, 100_000)), protocol.CSRRejected, ""},
		{"a broken signature", body(t, "csr", brokenCSR(t, "noisy")), protocol.CSRRejected, ""},
		{"a key in use", body(t, "csr", newCSR(t, signer(noisy.old), "noisy")), protocol.CSRRejected, ""},
		{"another device's key", body(t, "csr", newCSR(t, signer(other.old), "noisy")), protocol.CSRRejected, ""},
		{"another device's name", body(t, "csr", newCSR(t, newKey(t), "other")), protocol.CSRRejected, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w.unchanged(t, func(t *testing.T) {
				began := time.Now()
				p.in(t).refusedAs(c.get, protocol.Get, c.payload)
				t.Logf("answered in %s", time.Since(began))
				p.in(t).refusedAs(c.get, protocol.Get, c.payload) // stable
				if c.ack != "" {
					p.in(t).refusedAs(c.ack, protocol.Ack, c.payload)
				}
			})
		})
	}
	// And what it means is still answered.
	p = p.in(t)
	noisy.get(t, p)
	w.inState(t, "noisy", rotation.Vended)
	over := w.open(t, "noisy", "noisy/candidate", noisy.next)
	if accepted, reply := over.ask(protocol.Ack, "{}"); !accepted {
		t.Errorf("ack: %s", reply)
	}
	w.settle(t)
	w.unchanged(t, func(t *testing.T) {
		over.in(t).refusedAs(protocol.CSRRejected, protocol.Get, noisy.csr)                                             // the key it has now
		over.in(t).refusedAs(protocol.CSRRejected, protocol.Get, body(t, "csr", newCSR(t, signer(noisy.old), "noisy"))) // had before
	})
	// A packet of more than 128 KiB is none that is answered.
	if err := over.write(message(t, 1, 9, "cdf/certificates/noisy/get", make([]byte, protocol.MaxPacket))); err == nil {
		over.ends()
	}
}

func signer(c tls.Certificate) *ecdsa.PrivateKey { return c.PrivateKey.(*ecdsa.PrivateKey) }

func certificatePEM(c tls.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
}

// brokenCSR has one bit of its signature flipped.
func brokenCSR(t *testing.T, name string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(newCSR(t, newKey(t), name)))
	block.Bytes[len(block.Bytes)-1] ^= 1
	return string(pem.EncodeToMemory(block))
}

// hugeCSR asks for an RSA key of so many bits, which nobody has: it is put
// together by hand, and refused before its signature is looked at.
func hugeCSR(t *testing.T, bits int) string {
	t.Helper()
	modulus := new(big.Int).SetBit(big.NewInt(1), bits-1, 1)
	key, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: modulus, E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	type info struct {
		Version                  int
		Subject, Key, Attributes asn1.RawValue
	}
	der, err := asn1.Marshal(struct {
		Info      info
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		info{0, asn1.RawValue{FullBytes: []byte{0x30, 0}}, asn1.RawValue{FullBytes: key}, asn1.RawValue{FullBytes: []byte{0xa0, 0}}},
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue}, // SHA-256 with RSA
		asn1.BitString{Bytes: []byte{1}, BitLength: 8},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x509.ParseCertificateRequest(der); err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}
