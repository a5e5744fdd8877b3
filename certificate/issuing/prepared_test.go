package issuing

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"
	"time"
)

// What is signed is, octet for octet, what crypto/x509 would have signed.
func TestPreparedIsWhatX509Makes(t *testing.T) {
	for _, caKind := range []string{"p256", "p384", "p521"} {
		a := authority(t, keys()[caKind])
		if a.prepared == nil {
			t.Fatalf("%s: an ECDSA key in this process is not prepared", caKind)
		}
		for kind, key := range keys() {
			for _, subject := range [][]byte{nil, rawName(pkix.Name{CommonName: "sensor-1"}), rawName(pkix.Name{CommonName: "ø", Country: []string{"NO"}})} {
				for _, until := range []time.Time{now.Add(time.Hour), now.AddDate(9, 0, 0)} {
					o := order(key)
					o.RawSubject, o.NotAfter = subject, until
					template, err := a.template(o)
					if err != nil {
						t.Fatal(err)
					}
					ours, err := a.prepared.sign(template, o.Key)
					if err != nil {
						t.Fatal(err)
					}
					theirs := must(x509.CreateCertificate(rand.Reader, template, a.issuer, o.Key, a.signer))
					compare(t, caKind+" signs "+kind, a, ours, theirs)
				}
			}
		}
	}
}

func compare(t *testing.T, what string, a *Authority, ours, theirs []byte) {
	t.Helper()
	our, their := must(x509.ParseCertificate(ours)), must(x509.ParseCertificate(theirs))
	if !bytes.Equal(our.RawTBSCertificate, their.RawTBSCertificate) {
		t.Errorf("%s: to be signed\n%x instead of\n%x", what, our.RawTBSCertificate, their.RawTBSCertificate)
	}
	if our.SignatureAlgorithm != their.SignatureAlgorithm {
		t.Errorf("%s: %s instead of %s", what, our.SignatureAlgorithm, their.SignatureAlgorithm)
	}
	if err := our.CheckSignatureFrom(a.issuer); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	var whole struct {
		TBS       asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	if rest, err := asn1.Unmarshal(ours, &whole); err != nil || len(rest) > 0 {
		t.Errorf("%s: %v, %d octets behind it", what, err, len(rest))
	}
}

// Requests beyond the CPUs wait, and no longer than their callers do.
func TestSigningWaitsForItsTurn(t *testing.T) {
	a := authority(t, keys()["p256"])
	for range cap(a.turns) {
		a.turns <- struct{}{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		_, err := a.Issue(ctx, order(keys()["p256"]))
		done <- err
	}()
	cancel()
	if err := <-done; err == nil {
		t.Error("signed without a turn")
	}
	<-a.turns
	if _, err := a.Issue(context.Background(), order(keys()["p256"])); err != nil {
		t.Error(err)
	}
}

// The prepared way beside that of crypto/x509, which verifies what it signed.
func BenchmarkPrepared(b *testing.B) {
	key := keys()["p256"]
	a := authority(b, key)
	template, err := a.template(order(key))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("prepared", func(b *testing.B) {
		for b.Loop() {
			if _, err := a.prepared.sign(template, key.Public()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("x509", func(b *testing.B) {
		for b.Loop() {
			if _, err := x509.CreateCertificate(rand.Reader, template, a.issuer, key.Public(), key); err != nil {
				b.Fatal(err)
			}
		}
	})
}
