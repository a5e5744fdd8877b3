package vending_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
	"github.com/certvendor/certvendor/vending"
)

// request is what a row of a table sends, over the old certificate unless it
// says otherwise.
type request struct {
	action protocol.Action
	body   string
	over   *vending.Caller
}

// refusals produce every reason there is, each by the one thing that is wrong.
// Where more than one thing leads to a reason, they are all here.
var refusals = []struct {
	reason protocol.Reason
	name   string
	breaks func(*bed)
	request
	// changes are what was done before the refusal; nil: nothing.
	changes []string
}{
	{protocol.NotAllowed, "unknown device", func(b *bed) {
		b.device = func(registry.DeviceID) (registry.Device, error) {
			return registry.Device{}, fmt.Errorf("describe: %w", registry.ErrUnknown)
		}
	}, get("{}"), nil},
	{protocol.NotAllowed, "unknown device, ack", func(b *bed) {
		b.device = func(registry.DeviceID) (registry.Device, error) { return registry.Device{}, registry.ErrUnknown }
	}, ack("{}"), nil},
	{protocol.NotAllowed, "blocked device", func(b *bed) {
		b.device = func(id registry.DeviceID) (registry.Device, error) {
			return registry.Device{ID: id, Blocked: true}, nil
		}
	}, get(""), nil},
	{protocol.RegistryFailed, "registry down", func(b *bed) {
		b.device = func(registry.DeviceID) (registry.Device, error) { return registry.Device{}, errBroken }
	}, get(""), nil},
	{protocol.NoPackage, "no package", noPackage(vending.ErrNoPackage), get(""), nil},
	{protocol.NoPackage, "package was used", func(b *bed) {
		b.pack = func() (vending.Package, error) { return vending.Package{Certificate: waiting.ID, Spent: true}, nil }
	}, get(""), nil},
	{protocol.NoPackage, "package of another device", func(b *bed) { b.held = b.held[:1] }, get(""), nil},
	{protocol.NoPackage, "package expired", heldPackage(func(h *certificate.Holding) { h.NotAfter = noon }), get(""), nil},
	{protocol.NoPackage, "package withdrawn", heldPackage(func(h *certificate.Holding) { h.Standing = certificate.Deleted }), get(""), nil},
	{protocol.NoCertificateID, "package names no certificate", noPackage(vending.ErrNoCertificateID), get(""), nil},
	{protocol.ActivationFailed, "activate fails", func(b *bed) {
		heldPackage(nil)(b)
		b.activate = func(certificate.ID) error { return errBroken }
	}, get(""), []string{"open", "advance to intended"}},
	{protocol.LinkFailed, "link fails", func(b *bed) {
		heldPackage(nil)(b)
		b.link = func() (string, error) { return "", errBroken }
	}, get(""), []string{"open", "activate", "advance to intended"}},
	{protocol.NoCA, "no CA", issuing(fmt.Errorf("ssm: %w", certificate.ErrNoCA)), csr(), []string{"open", "advance to intended"}},
	{protocol.NoCAKey, "no CA key", issuing(fmt.Errorf("ssm: %w", certificate.ErrNoCAKey)), csr(), []string{"open", "advance to intended"}},
	{protocol.IssueFailed, "issuer fails", issuing(errBroken), csr(), []string{"open", "advance to intended"}},
	{protocol.InvalidIoTCAAlias, "issuer's choice", issuing(&vending.Error{Reason: protocol.InvalidIoTCAAlias}), csr(), []string{"open", "advance to intended"}},
	{protocol.InvalidPCAAlias, "issuer's choice", issuing(fmt.Errorf("pca: %w", &vending.Error{Reason: protocol.InvalidPCAAlias})), csr(), []string{"open", "advance to intended"}},
	{protocol.NoIoTCA, "issuer's choice", issuing(&vending.Error{Reason: protocol.NoIoTCA}), csr(), []string{"open", "advance to intended"}},
	{protocol.NoPCA, "issuer's choice", issuing(&vending.Error{Reason: protocol.NoPCA}), csr(), []string{"open", "advance to intended"}},
	{protocol.CANotAllowed, "issuer's choice", issuing(&vending.Error{Reason: protocol.CANotAllowed, Err: errBroken}), csr(), []string{"open", "advance to intended"}},
	{protocol.RegisterFailed, "register fails", registering(errBroken), csr(), issuedOnly},
	{protocol.AttachFailed, "attach fails", registering(fmt.Errorf("iot: %w", certificate.ErrNotAttached)), csr(), issuedOnly},
	{protocol.PolicyFailed, "policy fails", registering(fmt.Errorf("iot: %w", certificate.ErrNoPolicy)), csr(), issuedOnly},
	{protocol.PolicyFailed, "no policy to inherit", func(b *bed) {
		b.config.Profiles[0].Policy = vending.Policy{Mode: vending.PolicyInherit}
		b.held[0].Policies = nil
	}, csr(), nil},
	{protocol.PublishFailed, "the accepting reply is not taken", func(b *bed) {
		b.publish = func(topic string) error {
			if strings.HasSuffix(topic, "/accepted") {
				return errBroken
			}
			return nil
		}
	}, csr(), []string{"open", "issue", "advance to issued", "register", "advance to vended"}},
	{protocol.Malformed, "not JSON", nil, get("ping"), nil},
	{protocol.Malformed, "not JSON, ack", nil, ack("ping"), nil},
	{protocol.CSRRejected, "not a CSR", nil, get(`{"csr":"hello"}`), nil},
	{protocol.CSRRejected, "names another device", nil, get(getBody(makeCSR(newKey(), "pump-8"))), nil},
	{protocol.CSRRejected, "a key that another device has", func(b *bed) {
		b.listed = []certificate.Holding{{Certificate: openCertificate, Device: "pump-8"}}
	}, get(getBody(makeCSR(openKey, ""))), nil},
	{protocol.CSRRejected, "the key of the old certificate", func(b *bed) { b.listed = b.held }, get(getBody(makeCSR(oldKey, ""))), nil},
	{protocol.NotBound, "a certificate of nobody", nil,
		request{protocol.Get, "", &vending.Caller{Certificate: waiting.ID, Evidence: certificate.Connection}}, nil},
	{protocol.NotBound, "an inactive certificate", func(b *bed) { b.held[0].Standing = certificate.Inactive }, csr(), nil},
	{protocol.NotBound, "a certificate that was withdrawn this moment", seen(certificate.ErrNotActive), csr(), nil},
	{protocol.NotBound, "on another device's topic", nil,
		request{protocol.Get, "", &vending.Caller{Device: "pump-8", Certificate: oldCertificate.ID}}, nil},
	{protocol.NotBound, "acking for another device", nil,
		request{protocol.Ack, "", &vending.Caller{Device: "pump-8", Certificate: oldCertificate.ID}}, nil},
	{protocol.PreviousNotHeld, "names what it does not hold", nil,
		get(getBody(makeCSR(newKey(), ""), "previousCertificateId", string(waiting.ID))), nil},
	{protocol.PreviousNotHeld, "names no id", nil, get(getBody(makeCSR(newKey(), ""), "previousCertificateId", "a")), nil},
	{protocol.PreviousNotHeld, "names what it did not hold, ack", open, request{
		protocol.Ack, fmt.Sprintf(`{"previousCertificateId":%q}`, waiting.ID), overOpen}, nil},
	{protocol.TooManyRequests, "over its rate", func(b *bed) {
		b.allow = func() (time.Duration, bool) { return 1500 * time.Millisecond, false }
	}, csr(), nil},
	{protocol.TooManyRequests, "too many new keys", func(b *bed) {
		b.config.NewKeys = 1
		b.history.Rotations = []rotation.Rotation{finished(openRotation())}
	}, csr(), nil},
	{protocol.NoOpenRotation, "nothing was vended", nil, ack(""), nil},
	{protocol.NoOpenRotation, "the last one is over", func(b *bed) {
		b.history.Rotations = []rotation.Rotation{finished(openRotation())}
	}, ack(""), nil},
	{protocol.NotProven, "over the old certificate", open, ack(""), nil},
	{protocol.NotProven, "nothing is ready yet", func(b *bed) {
		r := openRotation()
		r.State = rotation.Intended
		b.history.Rotations = []rotation.Rotation{r}
	}, ack(""), nil},
	{protocol.NotProven, "proofs only", func(b *bed) {
		open(b)
		b.config.RejectUnproven = true
	}, request{protocol.Ack, "", &vending.Caller{}}, nil},
	{protocol.TryAgainLater, "vending is frozen", func(b *bed) { b.frozen.Vending = true }, csr(), nil},
	{protocol.TryAgainLater, "another instance is at work", func(b *bed) {
		r := openRotation()
		r.Lease = rotation.Lease{Instance: "other", Until: noon.Add(time.Second)}
		b.history.Rotations = []rotation.Rotation{r}
	}, csr(), nil},
	{protocol.TryAgainLater, "the journal was changed", func(b *bed) {
		b.open = func() error { return fmt.Errorf("open: %w", rotation.ErrChanged) }
	}, csr(), nil},
	{protocol.TryAgainLater, "the sighting cannot be written", seen(errBroken), csr(), nil},
	{protocol.TryAgainLater, "the device asks too fast", func(b *bed) { b.queue = failing{vending.ErrBusy} }, csr(), nil},
	{protocol.TryAgainLater, "the answer is late", func(b *bed) { b.queue = failing{vending.ErrLate} }, ack(""), nil},
	{protocol.Internal, "the inventory holds no certificate", func(b *bed) {
		open(b)
		b.held[1].DER = []byte("rotten")
	}, request{protocol.Ack, fmt.Sprintf(`{"certificateId":%q,"proof":"x"}`, openCertificate.ID), &vending.Caller{}}, nil},
}

func TestEveryReason(t *testing.T) {
	produced := map[protocol.Reason]bool{}
	for _, test := range refusals {
		produced[test.reason] = true
		t.Run(string(test.reason)+"/"+test.name, func(t *testing.T) {
			b := newBed(t)
			if test.breaks != nil {
				test.breaks(b)
			}
			body := test.body
			if body == "a new CSR" {
				body = getBody(makeCSR(newKey(), ""))
			}
			if test.over != nil {
				b.serveOver(*test.over, topic(test.action), body)
			} else {
				b.serve(topic(test.action), body)
			}
			rejected := b.wantRejected(test.action, test.reason)
			later := test.reason == protocol.TryAgainLater || test.reason == protocol.TooManyRequests
			if (rejected.RetryAfter > 0) != later {
				t.Errorf("retryAfter %d", rejected.RetryAfter)
			}
			if test.changes == nil {
				b.wantUnchanged()
			} else if !slices.Equal(b.changes, test.changes) {
				t.Errorf("changed %v, want %v", b.changes, test.changes)
			}
		})
	}
	for _, reason := range protocol.Reasons() {
		if !produced[reason] {
			t.Errorf("no test produces %s", reason)
		}
	}
}

func TestOperatorHearsTheCause(t *testing.T) {
	b := newBed(t)
	issuing(errBroken)(b)
	b.serve(topic(protocol.Get), getBody(makeCSR(newKey(), "")))
	b.wantRejected(protocol.Get, protocol.IssueFailed)
	if o := b.outcome(); !errors.Is(o.Err, errBroken) {
		t.Errorf("the outcome's error is %v, want the cause in it", o.Err)
	}
}

var issuedOnly = []string{"open", "issue", "advance to issued", "advance to issued"}

func get(body string) request { return request{action: protocol.Get, body: body} }

func ack(body string) request { return request{action: protocol.Ack, body: body} }

// csr is a get with a new key.
func csr() request { return get("a new CSR") }

func issuing(err error) func(*bed) {
	return func(b *bed) {
		b.issue = func(certificate.Order) (certificate.Certificate, error) { return certificate.Certificate{}, err }
	}
}

func registering(err error) func(*bed) {
	return func(b *bed) { b.register = func(certificate.Certificate) error { return err } }
}

func noPackage(err error) func(*bed) {
	return func(b *bed) { b.pack = func() (vending.Package, error) { return vending.Package{}, err } }
}

func seen(err error) func(*bed) {
	return func(b *bed) { b.seen = func(certificate.Sighting) error { return err } }
}

// heldPackage gives the device the certificate of its package.
func heldPackage(change func(*certificate.Holding)) func(*bed) {
	return func(b *bed) {
		h := certificate.Holding{Certificate: waiting, Device: device}
		h.Kind, h.Standing = certificate.Packaged, certificate.Inactive
		if change != nil {
			change(&h)
		}
		b.held = append(b.held, h)
	}
}

// open gives the device an open rotation.
func open(b *bed) {
	b.history.Rotations = []rotation.Rotation{openRotation()}
	b.held = append(b.held, certificate.Holding{Certificate: openCertificate, Device: device})
}

var overOpen = &vending.Caller{Certificate: openCertificate.ID, Evidence: certificate.Connection}

func finished(r rotation.Rotation) rotation.Rotation {
	r.State, r.ProvenAt, r.ClosedAt = rotation.Finished, noon, noon
	return r
}
