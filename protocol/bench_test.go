package protocol

import (
	"strings"
	"testing"
)

// The two ends of a get on the wire, with as much in them as P-256 makes.
func BenchmarkGet(b *testing.B) {
	csr := "-----BEGIN CERTIFICATE REQUEST-----\\n" + strings.Repeat("A", 320) + "\\n-----END CERTIFICATE REQUEST-----\\n"
	body := []byte(`{"csr":"` + csr + `","clientToken":"1"}`)
	at := Address{Device: "device-1", Action: Get}
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := DecodeGet(body, at); err != nil {
				b.Fatal(err)
			}
		}
	})
	reply := GetAccepted{
		DeviceID: "device-1", Action: Get, CertificateID: strings.Repeat("a", 64),
		Certificate: strings.Repeat("A", 600), Chain: strings.Repeat("A", 1200), NotAfter: "2029-01-01T00:00:00Z", Nonce: strings.Repeat("A", 43),
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if len(Encode(reply)) == 0 {
				b.Fatal("nothing")
			}
		}
	})
}
