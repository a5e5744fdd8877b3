package aws

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/aws/smithy-go"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/backend/backendtest"
)

func signed(t *testing.T, w *World, clock *backendtest.Clock) certificate.Certificate {
	t.Helper()
	c, err := w.issuer.Issue(t.Context(), certificate.Order{
		Device: "thing-1", Key: backendtest.NewKey().Public(), RawSubject: emptyName,
		NotBefore: clock.Now(), NotAfter: clock.Now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestQuotaYieldsAndGrowsBack(t *testing.T) {
	clock := noon()
	q, err := NewQuotas(0.5, map[string]float64{"AttachPolicy": 30}, clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	throttled := &smithy.GenericAPIError{Code: "ThrottlingException"}
	rate := func(api string) float64 { return q.Counts()[api].PerSecond }
	for _, api := range []string{"RegisterCertificate", "AttachPolicy"} {
		if err := q.wait(t.Context(), api); err != nil {
			t.Fatal(err)
		}
	}
	if rate("RegisterCertificate") != 5 || rate("AttachPolicy") != 30 {
		t.Fatalf("rates %v", q.Counts())
	}
	q.told("RegisterCertificate", throttled)
	q.told("RegisterCertificate", throttled) // out at the same time
	if rate("RegisterCertificate") != 2.5 {
		t.Errorf("%g after a throttle, want 2.5", rate("RegisterCertificate"))
	}
	for range 100 {
		clock.Advance(2 * time.Second)
		q.told("RegisterCertificate", throttled)
	}
	if got := rate("RegisterCertificate"); got != 5*leastShare {
		t.Errorf("%g however often it is throttled, want %g", got, 5*leastShare)
	}
	for range 100 {
		clock.Advance(2 * time.Second)
		q.told("RegisterCertificate", nil)
	}
	if rate("RegisterCertificate") != 5 {
		t.Errorf("%g once AWS answers again, want 5", rate("RegisterCertificate"))
	}
	if count := q.Counts()["RegisterCertificate"]; count.Calls != 1 || count.Throttled != 102 {
		t.Errorf("counts %+v", count)
	}
	q.told("AttachPolicy", &smithy.GenericAPIError{Code: limitExceeded})
	if rate("AttachPolicy") != 30 {
		t.Error("a limit of how many there may be was taken for a throttle")
	}
}

// TestQuotaHasNoTurn: who would not get a turn in time hears so at once, as
// something that passes.
func TestQuotaHasNoTurn(t *testing.T) {
	q, err := NewQuotas(1, map[string]float64{"Slow": 0.001}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := q.wait(ctx, "Slow"); err != nil {
		t.Fatal(err)
	}
	if err := q.wait(ctx, "Slow"); !errors.Is(err, errQuota) || !isPassing(err) {
		t.Errorf("got %v", err)
	}
}

// TestThrottledCallIsRepeated: the SDK itself, against the wire.
func TestThrottledCallIsRepeated(t *testing.T) {
	fake, clock := newFake(), noon()
	w := fake.open(t, clock)
	fake.throttle = attempts - 1
	if _, err := w.registry.Device(t.Context(), "thing-1"); err != nil {
		t.Fatal(err)
	}
	count := w.Calls()["DescribeThing"]
	if count.Calls != attempts || count.Throttled != attempts-1 {
		t.Errorf("counted %+v", count)
	}
}

func TestQuotasRefuse(t *testing.T) {
	for _, share := range []float64{0, -1, 1.1} {
		if _, err := NewQuotas(share, nil, time.Now); err == nil {
			t.Errorf("a share of %g was taken", share)
		}
	}
}

func TestCertificateID(t *testing.T) {
	id := "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	for principal, want := range map[string]bool{
		"arn:aws:iot:eu-west-1:123456789012:cert/" + id:            true,
		"arn:aws-cn:iot:cn-north-1:123456789012:cert/" + id:        true,
		"arn:aws-us-gov:iot:us-gov-west-1:123456789012:cert/" + id: true,
		"arn:aws:iot:eu-west-1:123456789012:cert/" + id + "0":      false,
		"arn:aws:iam::123456789012:user/cert/" + id:                false,
		"arn:aws:iot:eu-west-1:123456789012:cacert/" + id:          false,
		"eu-west-1:" + id: false,
		id:                false,
	} {
		if got, is := certificateID(principal); is != want || want && string(got) != id {
			t.Errorf("%s: %q, %t", principal, got, is)
		}
	}
}
