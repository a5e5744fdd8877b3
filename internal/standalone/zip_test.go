package standalone

import (
	"archive/zip"
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"io/fs"
	"slices"
	"testing"
)

func unpack(t *testing.T, packed []byte) (names []string, files map[string][]byte, modes map[string]fs.FileMode) {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(packed), int64(len(packed)))
	if err != nil {
		t.Fatal(err)
	}
	files, modes = map[string][]byte{}, map[string]fs.FileMode{}
	for _, f := range r.File {
		opened, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(opened)
		if err != nil {
			t.Fatal(err)
		}
		names, files[f.Name], modes[f.Name] = append(names, f.Name), content, f.Mode()
	}
	return names, files, modes
}

func TestPackageIsEverythingThatADeviceNeeds(t *testing.T) {
	c := newClock()
	_, ca := madeCA(t, caConfig(c))
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"P-256": deviceKey(t), "RSA 2048": rsaKey} {
		t.Run(name, func(t *testing.T) {
			packed, err := BuildPackage(key, issueTo(t, ca, key, c.now()), ca.ServerRoots())
			if err != nil {
				t.Fatal(err)
			}
			names, files, modes := unpack(t, packed)
			if want := []string{"certificate.pem", "private.key", "public.key", "ca.pem"}; !slices.Equal(names, want) {
				t.Fatalf("files %v, want %v", names, want)
			}
			if modes["private.key"] != 0o600 {
				t.Errorf("private.key has mode %v", modes["private.key"])
			}
			pair, err := tls.X509KeyPair(files["certificate.pem"], files["private.key"])
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			if !roots.AppendCertsFromPEM(files["ca.pem"]) {
				t.Fatal("no roots")
			}
			serverErr, clientErr := handshake(t,
				&tls.Config{GetCertificate: ca.GetCertificate, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.ClientPool()},
				&tls.Config{ServerName: "localhost", RootCAs: roots, Certificates: []tls.Certificate{pair}})
			if serverErr != nil || clientErr != nil {
				t.Errorf("the server says %v, the device %v", serverErr, clientErr)
			}
			block, _ := pem.Decode(files["public.key"])
			spki, err := x509.MarshalPKIXPublicKey(key.Public())
			if err != nil || block == nil || block.Type != "PUBLIC KEY" || !bytes.Equal(block.Bytes, spki) {
				t.Errorf("public.key: %s, %v", files["public.key"], err)
			}
		})
	}
}

func TestPackageIsTheSameEveryTime(t *testing.T) {
	c := newClock()
	_, ca := madeCA(t, caConfig(c))
	key := deviceKey(t)
	leaf := issueTo(t, ca, key, c.now())
	one, err := BuildPackage(key, leaf, ca.ServerRoots())
	if err != nil {
		t.Fatal(err)
	}
	two, err := BuildPackage(key, leaf, ca.ServerRoots())
	if err != nil || !bytes.Equal(one, two) {
		t.Errorf("differs: %v", err)
	}
}

func TestPackageWithTheKeyOfAnother(t *testing.T) {
	c := newClock()
	_, ca := madeCA(t, caConfig(c))
	if _, err := BuildPackage(deviceKey(t), issueTo(t, ca, deviceKey(t), c.now()), ca.ServerRoots()); err == nil {
		t.Error("built")
	}
}
