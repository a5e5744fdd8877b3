package certificate

import (
	"crypto/elliptic"
	"testing"
)

// A CSR on P-256, from its text to the proof that the device has the key.
func BenchmarkRequest(b *testing.B) {
	text := csr(b, ecKey(b, elliptic.P256()), named("device-1"))
	request, err := ParseRequest(text)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ParseRequest(text); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := request.CheckSignature(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
