package vending_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

// TestNoise sends what no firmware means. Each gets one reply with a stable
// reason, and nothing is changed by it.
func TestNoise(t *testing.T) {
	const malformed, rejected = protocol.Malformed, protocol.CSRRejected
	anyCSR := makeCSR(newKey(), "")
	for _, test := range []struct {
		name    string
		payload string
		get     protocol.Reason // of a get with this payload; empty: it is one
		ack     protocol.Reason // of an ack, which no rotation waits for here
	}{
		{"text", "ping", malformed, malformed},
		{"a NUL", "\x00", malformed, malformed},
		{"binary", "\x1f\x8b\x08\x00\xff\xfe", malformed, malformed},
		{"null", "null", malformed, malformed},
		{"a number", "5", malformed, malformed},
		{"a string", `"csr"`, malformed, malformed},
		{"an array", "[]", malformed, malformed},
		{"an array of objects", "[{}]", malformed, malformed},
		{"cut short", `{"csr":"`, malformed, malformed},
		{"single quotes", `{'csr':'x'}`, malformed, malformed},
		{"two objects", `{}{}`, malformed, malformed},
		{"trailing data", `{} x`, malformed, malformed},
		{"duplicate keys", `{"csr":"a","csr":"b"}`, malformed, malformed},
		{"duplicate keys spelled differently", `{"csr":"a","\u0063sr":"b"}`, malformed, malformed},
		{"duplicate keys of something unknown", `{"x":1,"x":2}`, malformed, malformed},
		{"duplicate keys within", `{"acmpcaParameters":{"awsiotCaAlias":"a","awsiotCaAlias":"b"}}`, malformed, malformed},
		{"invalid UTF-8", "{\"csr\":\"\xff\"}", malformed, malformed},
		{"invalid UTF-8 in a name", "{\"\xff\":1}", malformed, malformed},
		{"a lone surrogate", `{"csr":"\ud800"}`, malformed, malformed},
		{"deep nesting", `{"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, malformed, malformed},
		{"more than 64 KiB", `{"x":"` + strings.Repeat("a", protocol.MaxPayload) + `"}`, malformed, malformed},
		{"csr null", `{"csr":null}`, malformed, protocol.NoOpenRotation},
		{"csr a number", `{"csr":5}`, malformed, protocol.NoOpenRotation},
		{"csr an object", `{"csr":{}}`, malformed, protocol.NoOpenRotation},
		{"csr a list", `{"csr":[]}`, malformed, protocol.NoOpenRotation},
		{"csr empty", `{"csr":""}`, malformed, protocol.NoOpenRotation},
		{"csr of blanks", `{"csr":"  "}`, rejected, protocol.NoOpenRotation},
		{"csr not PEM", `{"csr":"MIIB"}`, rejected, protocol.NoOpenRotation},
		{"csr PEM of nothing", getBody("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"), rejected, protocol.NoOpenRotation},
		{"csr of two", getBody(anyCSR + anyCSR), rejected, protocol.NoOpenRotation},
		{"csr with something behind", getBody(anyCSR + "x"), rejected, protocol.NoOpenRotation},
		{"csr is a certificate", getBody(oldCertificate.PEM()), rejected, protocol.NoOpenRotation},
		{"csr too long", getBody(anyCSR + strings.Repeat("\n", protocol.MaxCSR)), rejected, protocol.NoOpenRotation},
		{"csr with a broken signature", getBody(brokenCSR()), rejected, protocol.NoOpenRotation},
		{"csr for RSA-1024", getBody(rsaCSR(t, 1024)), rejected, protocol.NoOpenRotation},
		{"csr for RSA of 90,000 bits", getBody(hugeCSR(90_000)), rejected, protocol.NoOpenRotation},
		{"csr for RSA of 100,000 bits", getBody(hugeCSR(100_000)), rejected, protocol.NoOpenRotation},
		{"deviceId of another", `{"deviceId":"pump-8"}`, malformed, malformed},
		{"deviceId not text", `{"deviceId":7}`, malformed, malformed},
		{"action of another", `{"action":"put"}`, malformed, malformed},
		{"certId of another", `{"certId":"x"}`, malformed, malformed},
		{"previousCertificateId not text", `{"previousCertificateId":5}`, malformed, malformed},
		{"clientToken not text", `{"clientToken":5}`, malformed, malformed},
		{"clientToken too long", `{"clientToken":"` + strings.Repeat("é", protocol.MaxClientToken+1) + `"}`, malformed, malformed},
		{"acmpcaParameters not an object", `{"acmpcaParameters":"x"}`, malformed, protocol.NoOpenRotation},
		{"proof alone", `{"proof":"x"}`, "", malformed},
		{"certificateId alone", `{"certificateId":"x"}`, "", malformed},
		{"nothing", "", "", protocol.NoOpenRotation},
		{"an empty object", "{}", "", protocol.NoOpenRotation},
		{"what nobody knows", `{"foo":1,"bar":[{}]}`, "", protocol.NoOpenRotation},
		{"what the topic says too", `{"deviceId":"pump-7","certId":"` + string(oldCertificate.ID) + `"}`, "", protocol.NoOpenRotation},
	} {
		t.Run("get "+test.name, func(t *testing.T) {
			b := newBed(t)
			if test.get == "" {
				heldPackage(nil)(b)
				b.serve(topic(protocol.Get), test.payload)
				b.wantAccepted(protocol.Get, new(protocol.GetAccepted))
				return
			}
			start := time.Now()
			b.serve(topic(protocol.Get), test.payload)
			b.wantRejected(protocol.Get, test.get)
			b.wantUnchanged()
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %s", took) // a key of 90,000 bits, worked on, takes minutes
			}
		})
		t.Run("ack "+test.name, func(t *testing.T) {
			b := newBed(t)
			b.serve(topic(protocol.Ack), test.payload)
			b.wantRejected(protocol.Ack, test.ack)
			b.wantUnchanged()
		})
	}
}

// brokenCSR has one bit of its signature flipped.
func brokenCSR() string {
	block, _ := pem.Decode([]byte(makeCSR(newKey(), "")))
	block.Bytes[len(block.Bytes)-1] ^= 1
	return string(pem.EncodeToMemory(block))
}

func rsaCSR(t *testing.T, bits int) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return makeCSR(key, "")
}

// hugeCSR is for an RSA key of so many bits; it is assembled by hand, as nobody
// can make one. Up to some 95,000 bits fit into protocol.MaxCSR.
func hugeCSR(bits int) string {
	modulus := new(big.Int).SetBit(big.NewInt(1), bits-1, 1)
	key, err := asn1.Marshal(struct {
		N *big.Int
		E int
	}{modulus, 65537})
	if err != nil {
		panic(err)
	}
	sha256WithRSA := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue}
	type spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	type info struct {
		Version    int
		Subject    asn1.RawValue
		Key        spki
		Attributes asn1.RawValue
	}
	der, err := asn1.Marshal(struct {
		Info      info
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		info{0, asn1.RawValue{FullBytes: []byte{0x30, 0}}, spki{
			pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: asn1.NullRawValue},
			asn1.BitString{Bytes: key, BitLength: 8 * len(key)},
		}, asn1.RawValue{FullBytes: []byte{0xa0, 0}}},
		sha256WithRSA,
		asn1.BitString{Bytes: []byte{1}, BitLength: 8},
	})
	if err != nil {
		panic(err)
	}
	if _, err := x509.ParseCertificateRequest(der); err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}
