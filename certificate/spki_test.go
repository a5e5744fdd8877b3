package certificate_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"testing"

	"github.com/certvendor/certvendor/certificate"
)

func TestSPKIIsWhatX509Makes(t *testing.T) {
	var keys []any
	for _, curve := range []elliptic.Curve{elliptic.P224(), elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		for range 5 {
			key, err := ecdsa.GenerateKey(curve, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, key.Public())
		}
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, public := range append(keys, weak.Public(), edwards) {
		want, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := certificate.SPKI(public); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%T: %x, %v instead of %x", public, got, err, want)
		}
	}
}
