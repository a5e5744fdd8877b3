package aws

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/certificate/issuing"
	"github.com/certvendor/certvendor/internal/backend"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/vending"
)

// testBus is a bus on which nobody speaks.
type testBus struct{}

func (testBus) Publish(context.Context, string, []byte) error { return nil }
func (testBus) Subscribe(backend.Receiver)                    {}
func (testBus) Ready() error                                  { return nil }
func (testBus) Start(context.Context) error                   { return nil }
func (testBus) Close(context.Context) error                   { return nil }

// softwareCA returns an authority whose key is in this process.
func softwareCA(t *testing.T, now func() time.Time) *issuing.Authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	id := sha256.Sum256(spki)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(now().UnixNano()), Subject: pkix.Name{CommonName: "a CA of this test"},
		NotBefore: now().Add(-24 * time.Hour), NotAfter: now().Add(20 * 8760 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SubjectKeyId: id[:20],
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "a CA of this test"}}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := issuing.New(issuing.Config{Chain: []*x509.Certificate{parsed}, Signer: key, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// testBucket names the bucket of an account: S3 has one space of names for all.
func testBucket(account string) string { return "packages-" + account }

// prepareAccount makes in an account what a world finds there.
func prepareAccount(t *testing.T, account string, clients *Clients, policies ...string) {
	t.Helper()
	for _, name := range policies {
		_, err := clients.IoT.CreatePolicy(t.Context(), &iot.CreatePolicyInput{
			PolicyName: &name, PolicyDocument: new(`{"Version":"2012-10-17","Statement":[]}`),
		})
		if err != nil && codeOf(err) != alreadyExists { // moto may have done it, and failed then
			t.Fatal(err)
		}
	}
	_, err := clients.S3.CreateBucket(t.Context(), &s3.CreateBucketInput{
		Bucket:                    new(testBucket(account)),
		CreateBucketConfiguration: &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraintEuWest1},
	})
	if err != nil && codeOf(err) != "BucketAlreadyOwnedByYou" { // the same
		t.Fatal(err)
	}
}

func testConfig(account string, clients *Clients, now func() time.Time, data string) Config {
	return Config{
		Data: data, Instance: "examined", Clients: clients, Registration: WithCA, Group: "rotate",
		Pace: Pace{PerMinute: 120, MaxInFlight: 500}, Rerun: Readd,
		Packages: PackagesConfig{Bucket: testBucket(account), Prefix: "certificates/", Suffix: ".zip", LinkTTL: 300 * time.Second},
		Job:      JobSettings{InProgressTimeout: time.Hour},
		Bus:      testBus{}, Now: now, Log: zerolog.Nop(),
	}
}

func openWorld(t *testing.T, config Config) *World {
	t.Helper()
	w, err := Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// given has a world sign with what a test has made.
func given(issuer vending.Issuer) func(*store.Store) (vending.Issuer, error) {
	return func(*store.Store) (vending.Issuer, error) { return issuer, nil }
}
