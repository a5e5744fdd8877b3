package standalone

import (
	"bytes"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestKeysThatAreNotEncryptedWarn(t *testing.T) {
	data, ca := madeCA(t, caConfig(newClock()))
	for _, file := range []string{rootKeyFile, issuingKey, serverKeyFile} {
		path := filepath.Join(data, caDir, file)
		if !slices.ContainsFunc(ca.Warnings(), func(w string) bool { return strings.HasPrefix(w, path+" is not encrypted") }) {
			t.Errorf("no warning of %s in %q", file, ca.Warnings())
		}
	}
}

func TestKeyThatOthersCanReadWarns(t *testing.T) {
	data, _ := madeCA(t, caConfig(newClock()))
	if err := os.Chmod(filepath.Join(data, caDir, issuingKey), 0o640); err != nil {
		t.Fatal(err)
	}
	ca, err := LoadCA(data, caConfig(newClock()))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(ca.Warnings(), func(w string) bool { return strings.Contains(w, "can be read by others") }) {
		t.Errorf("warnings %q", ca.Warnings())
	}
}

func TestPassphrase(t *testing.T) {
	config := caConfig(newClock())
	config.Passphrase = []byte("correct horse")
	data, ca := madeCA(t, config)
	if len(ca.Warnings()) > 0 || !entryOf(t, ca, "issuing").Encrypted || !entryOf(t, ca, "root").Encrypted {
		t.Errorf("warnings %q, entries %+v", ca.Warnings(), ca.Entries())
	}
	for name, test := range map[string]struct {
		passphrase []byte
		want       string
	}{
		"wrong":   {[]byte("wrong horse"), "wrong passphrase"},
		"missing": {nil, "ca.passphrase is not set"},
	} {
		t.Run(name, func(t *testing.T) {
			config := config
			config.Passphrase = test.passphrase
			_, err := LoadCA(data, config)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), issuingKey) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestKeyEncryptedByOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not there")
	}
	data, _ := madeCA(t, caConfig(newClock()))
	for _, file := range []string{rootKeyFile, issuingKey, serverKeyFile} {
		path := filepath.Join(data, caDir, file)
		out, err := exec.Command(openssl, "pkcs8", "-topk8", "-in", path, "-out", path+".new", "-passout", "pass:horse").CombinedOutput()
		if err := errors.Join(err, os.Rename(path+".new", path)); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	config := caConfig(newClock())
	config.Passphrase = []byte("horse")
	ca, err := LoadCA(data, config)
	if err != nil {
		t.Fatal(err)
	}
	if len(ca.Warnings()) > 0 {
		t.Errorf("warnings %q", ca.Warnings())
	}
}

func TestKeyEncryptedByUsOpensWithOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not there")
	}
	config := caConfig(newClock())
	config.Passphrase = []byte("horse")
	data, ca := madeCA(t, config)
	out, err := exec.Command(openssl, "pkey", "-in", filepath.Join(data, caDir, issuingKey), "-passin", "pass:horse", "-pubout").Output()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(out)
	if block == nil || !bytes.Equal(block.Bytes, ca.issuer.RawSubjectPublicKeyInfo) {
		t.Errorf("got %s", out)
	}
}
