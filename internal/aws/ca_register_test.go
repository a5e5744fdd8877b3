package aws

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
)

// A CA becomes one of AWS IoT, wherever its key is, in both modes; the second
// run finds it.
func TestCARegistration(t *testing.T) {
	for kind, key := range caKeys(t) {
		for where, voucher := range map[string]func(*double) Voucher{
			"file": func(d *double) Voucher { return KeyedCA{d.ca, FileKey{key}} },
			"KMS":  func(d *double) Voucher { return KeyedCA{d.ca, KMSKey{d.kms(), "k"}} },
			"PCA":  func(d *double) Voucher { return PrivateCAVoucher{ARN: fakeCA, Client: d.pca()} },
		} {
			for _, verified := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s in %s, verified %t", kind, where, verified), func(t *testing.T) {
					d := startDouble(t, key)
					d.iotStatus, d.polls = "", 1
					r := CARegistration{IoT: d.iot(), CA: voucher(d), Verified: verified, Now: time.Now}
					want := CAState{
						ID: d.caID(), Subject: "CN=issuing", NotAfter: d.ca.NotAfter, Mode: r.mode(), Status: types.CACertificateStatusActive, Made: true,
					}
					wantCAState(t, r, want)
					want.Made = false
					wantCAState(t, r, want)
					d.script(func() { d.iotStatus = "INACTIVE" })
					want.Woken = true
					wantCAState(t, r, want)
					if n := d.count("POST cacertificate"); n != 1 {
						t.Errorf("registered %d times", n)
					}
					other := CARegistration{IoT: d.iot(), CA: voucher(d), Verified: !verified, Now: time.Now}
					if _, err := other.Register(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be changed") {
						t.Errorf("another mode: %v", err)
					}
				})
			}
		}
	}
}

func wantCAState(t *testing.T, r CARegistration, want CAState) {
	t.Helper()
	if got, err := r.Register(t.Context()); err != nil || got != want {
		t.Errorf("got  %+v, %v\nwant %+v", got, err, want)
	}
}

func TestCAsThatAreNotRegistered(t *testing.T) {
	key := ecKey(t)
	d := startDouble(t, key)
	d.iotStatus = ""
	leaf := d.signed(&x509.Certificate{NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}, key.Public())
	for name, c := range map[string]struct {
		voucher Voucher
		at      time.Time
		want    string
	}{
		"a leaf":        {KeyedCA{leaf, nil}, time.Now(), "is no CA certificate"},
		"an expired CA": {KeyedCA{d.ca, nil}, time.Now().AddDate(30, 0, 0), "has expired"},
		"a future CA":   {KeyedCA{d.ca, nil}, time.Now().AddDate(-30, 0, 0), "is not valid before"},
		"another's key": {KeyedCA{d.ca, FileKey{ecKey(t)}}, time.Now(), "the key is not that of CA"},
		"no key":        {KeyedCA{d.ca, nil}, time.Now(), "its key is needed"},
	} {
		r := CARegistration{IoT: d.iot(), CA: c.voucher, Verified: true, Now: func() time.Time { return c.at }}
		if _, err := r.Register(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if n := d.count("POST cacertificate"); n != 0 {
		t.Errorf("%d calls to register", n)
	}
}

// The key goes into SSM once, is what the daemon reads, and is nowhere else.
func TestPutKey(t *testing.T) {
	for kind, signer := range caKeys(t) {
		clients := dialMoto(t, newAccount(), nil)
		key, err := ReadKey([]byte(keyPEM(t, signer)))
		if err != nil {
			t.Fatal(err)
		}
		ca := certificate.ID(strings.Repeat("ab", 32))
		for _, want := range []bool{true, false} {
			if made, err := PutKey(t.Context(), clients.SSM, ca, key, ""); err != nil || made != want {
				t.Errorf("%s: %t, %v", kind, made, err)
			}
		}
		read, err := ParameterKey{SSM: clients.SSM, Name: KeyParameter(ca)}.Key(t.Context())
		if err != nil || !signer.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(read.During(t.Context()).Public()) {
			t.Errorf("%s: another key is read: %v", kind, err)
		}
		_, err = PutKey(t.Context(), clients.SSM, ca, FileKey{ecKey(t)}, "")
		if err == nil || !strings.Contains(err.Error(), "has another key") {
			t.Errorf("%s: another key: %v", kind, err)
		}
		text, err := key.text()
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(text))
		for _, printed := range []string{
			fmt.Sprintf("%v %+v %#v %s %x", key, key, key, key, key),
			withoutKey(errors.New("Value '"+text+"' at 'value' failed"), text).Error(),
			withoutKey(errors.New(strings.ReplaceAll(text, "\n", `\n`)), text).Error(),
		} {
			if strings.Contains(printed, "BEGIN") || strings.Contains(printed, string(block.Bytes)) || strings.Contains(printed, text[40:60]) {
				t.Errorf("%s: printed as %.200s", kind, printed)
			}
		}
		if plain := errors.New("AccessDeniedException: not allowed"); !errors.Is(withoutKey(plain, text), plain) {
			t.Error("an error without a key is not kept")
		}
	}
}
