package backendtest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

func nameScenarios() []scenario {
	return []scenario{
		{"case_18_validity_is_the_configured_one", validity},
		{"case_18_validity_ends_with_the_ca", validityOfCA},
		{"case_19_requested_extensions_are_ignored", extensionsIgnored},
		{"case_20_kinds_of_keys", keyKinds},
		{"case_21_weak_key_is_refused", weakKeys},
		{"case_22_23_24_25_noise_registers_nothing", noise},
		{"case_35_name_of_another_device", foreignName},
		{"case_35_forced_name", forcedName},
		{"case_36_acmpca_parameters_are_ignored", acmpcaIgnored},
		{"case_37_default_policy", defaultPolicy},
		{"case_38_39_policies_of_the_previous_certificate", inheritedPolicies},
		{"case_40_previous_certificate_of_another_device", foreignPrevious},
		{"case_41_previous_certificate_malformed", malformedPrevious},
		{"case_42_default_policy_where_nothing_is_inherited", fallbackPolicy},
		{"case_68_body_that_contradicts_its_topic", contradiction},
		{"case_70_71_topics_and_callers_of_nobody", topicsOfNobody},
	}
}

func validity(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Validity = 1095 * 24 * time.Hour })
	d := r.Device("d")
	reply := d.Get(d.First, NewKey())
	reply.OK()
	c := parsed(t, reply.Certificate)[0]
	if want := r.clock.Now().Add(1095 * 24 * time.Hour); c.NotAfter.Sub(want).Abs() > time.Second {
		t.Errorf("notAfter %s, want %s", c.NotAfter, want)
	}
	if want := r.clock.Now().Add(-5 * time.Minute); c.NotBefore.Sub(want).Abs() > time.Second {
		t.Errorf("notBefore %s, want %s", c.NotBefore, want)
	}
}

func validityOfCA(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Validity = 100 * 8760 * time.Hour })
	d := r.Device("d")
	reply := d.Get(d.First, NewKey())
	reply.OK()
	leaf := parsed(t, reply.Certificate)[0]
	for _, c := range parsed(t, reply.Chain) {
		if leaf.NotAfter.After(c.NotAfter) {
			t.Errorf("valid until %s, its CA until %s", leaf.NotAfter, c.NotAfter)
		}
	}
}

func extensionsIgnored(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	key := NewKey()
	reply := d.GetCSR(d.First, key, csrFrom(key, x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "d"},
		ExtraExtensions: []pkix.Extension{
			{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}},       // CA:TRUE
			{Id: []int{2, 5, 29, 37}, Value: []byte{0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1}}, // serverAuth
			{Id: []int{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 1, 6}},                // keyCertSign, cRLSign
			{Id: []int{1, 3, 6, 1, 4, 1, 99999, 1}, Value: []byte{5, 0}},                        // nobody's
		},
	}))
	reply.OK()
	c := parsed(t, reply.Certificate)[0]
	if c.Version != 3 || c.IsCA || !c.BasicConstraintsValid || c.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("version %d, CA %t, usage %b", c.Version, c.IsCA, c.KeyUsage)
	}
	if !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) || len(c.UnknownExtKeyUsage) > 0 {
		t.Errorf("extended usages %v %v", c.ExtKeyUsage, c.UnknownExtKeyUsage)
	}
	if c.Subject.CommonName != "d" || len(c.DNSNames) > 0 || len(c.URIs) != 1 || c.URIs[0].String() != certificate.URNPrefix+"d" {
		t.Errorf("named %s, %v, %v", c.Subject, c.DNSNames, c.URIs)
	}
	if len(c.SubjectKeyId) == 0 || len(c.AuthorityKeyId) == 0 {
		t.Error("no key identifiers")
	}
	for _, e := range c.Extensions {
		if e.Id.String() == "1.3.6.1.4.1.99999.1" {
			t.Error("an extension of the request's is in the certificate")
		}
	}
	d.GetCSR(d.First, key, csrFrom(key, x509.CertificateRequest{DNSNames: []string{"broker.example"}})).OK() // the same key: what is open
	other := NewKey()
	for _, template := range []x509.CertificateRequest{
		{DNSNames: []string{"broker.example"}},
		{URIs: []*url.URL{{Scheme: "urn", Opaque: "certvendor:device:e"}}},
		{EmailAddresses: []string{"root@example.com"}},
	} {
		d.GetCSR(d.First, other, csrFrom(other, template)).Refused(protocol.CSRRejected)
	}
}

func keyKinds(t *testing.T, open Open) {
	r := start(t, open)
	for name, key := range strongKeys(t) {
		d := r.Device(name)
		next := d.Get(d.First, key).OK()
		d.Store(next)
		d.Prove(next).OK()
	}
}

func weakKeys(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	d.Get(d.First, weakKey(t)).Refused(protocol.CSRRejected)
	if n := len(r.known()); n != 1 {
		t.Errorf("%d certificates are known, want 1", n)
	}
}

func noise(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	broken := []byte(CSR(NewKey(), "d"))
	broken[len(broken)/2] ^= 1
	big := make([]byte, protocol.MaxPayload+1)
	for body, reason := range map[string]protocol.Reason{
		string(protocol.Encode(map[string]string{"csr": string(broken)})): protocol.CSRRejected,
		`{"csr":""}`: protocol.Malformed, `{"csr":null}`: protocol.Malformed, `{"csr":5}`: protocol.Malformed,
		`{"csr":{}}`: protocol.Malformed, "ping": protocol.Malformed, string(big): protocol.Malformed,
		`{"csr":"a","csr":"b"}`: protocol.Malformed, "{} {}": protocol.Malformed,
	} {
		d.Ask(d.First, protocol.Get, body).Refused(reason)
	}
	d.WantStates()
	if n := len(r.known()); n != 1 {
		t.Errorf("%d certificates are known, want 1", n)
	}
}

func foreignName(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	r.Device("e")
	key := NewKey()
	for _, name := range []string{"e", "nobody", "d ", "D", certificate.URNPrefix + "e"} {
		d.GetCSR(d.First, key, CSR(key, name)).Refused(protocol.CSRRejected)
	}
	d.WantStates()
	for _, name := range []string{"", "d"} {
		d.GetCSR(d.First, key, CSR(key, name)).OK()
	}
	for _, mode := range []certificate.NameMode{certificate.AcceptName, certificate.PreviousName} {
		r := start(t, open, func(s *Setup) { s.Profile.Naming.Mode = mode })
		d := r.Device("d")
		r.Device("e")
		d.GetCSR(d.First, key, CSR(key, "e")).Refused(protocol.CSRRejected)
		d.GetCSR(d.First, key, CSR(key, "nobody")).OK()
	}
}

func forcedName(t *testing.T, open Open) {
	r := start(t, open, func(s *Setup) { s.Profile.Naming.Mode = certificate.ForceName })
	d := r.Device("d")
	r.Device("e")
	key := NewKey()
	reply := d.GetCSR(d.First, key, CSR(key, "e"))
	reply.OK()
	if c := parsed(t, reply.Certificate)[0]; c.Subject.CommonName != "d" {
		t.Errorf("common name %q", c.Subject.CommonName)
	}
}

func acmpcaIgnored(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	body := protocol.Encode(map[string]any{
		"csr":              CSR(NewKey(), "d"),
		"acmpcaParameters": map[string]any{"awsiotCaAlias": "nobody's", "certInfo": map[string]any{"daysExpiry": 1}},
	})
	d.Ask(d.First, protocol.Get, string(body)).OK()
}

func (d *Device) wantPolicies(c Cert, want ...string) {
	d.rig.t.Helper()
	h, _ := certificate.Find(d.held(), c.ID)
	if !slices.Equal(h.Policies, want) {
		d.rig.t.Errorf("policies %v, want %v", h.Policies, want)
	}
}

func defaultPolicy(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	next := d.Get(d.First, NewKey(), "previousCertificateId", string(d.First.ID)).OK()
	d.wantPolicies(next, "device")
}

func inherit(s *Setup) {
	s.Profile.Policy = vending.Policy{Mode: vending.PolicyInherit, Default: "device"}
}

func inheritedPolicies(t *testing.T, open Open) {
	r := start(t, open, inherit)
	d := r.Device("d")
	next := d.Get(d.First, NewKey(), "previousCertificateId", string(d.First.ID)).OK()
	d.wantPolicies(next, "given")
}

func foreignPrevious(t *testing.T, open Open) {
	r := start(t, open)
	d, e := r.Device("d"), r.Device("e")
	d.Get(d.First, NewKey(), "previousCertificateId", string(e.First.ID)).Refused(protocol.PreviousNotHeld)
	d.WantStates()
	e.Want(certificate.Active, e.First)
}

func malformedPrevious(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	for _, id := range []string{"a", "*", "arn:aws:iot:eu-west-1:1:cert/" + string(d.First.ID), string(d.First.ID) + " "} {
		d.Get(d.First, NewKey(), "previousCertificateId", id).Refused(protocol.PreviousNotHeld)
	}
	d.WantStates()
}

func fallbackPolicy(t *testing.T, open Open) {
	r := start(t, open, inherit)
	d := r.Device("d")
	d.Given(certificate.Adopted) // two are active, and nobody knows which speaks
	next := d.Get(unseen, NewKey()).OK()
	d.wantPolicies(next, "device")
}

func contradiction(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	d.Ask(d.First, protocol.Get, `{"deviceId":"other","certId":"x","action":"ack"}`).Refused(protocol.Malformed)
	d.Ask(d.First, protocol.Ack, `{"deviceId":"other"}`).Refused(protocol.Malformed)
	d.WantStates()
}

func topicsOfNobody(t *testing.T, open Open) {
	r := start(t, open)
	d := r.Device("d")
	for _, topic := range []string{
		"cdf/certificates/d/get/accepted", "cdf/certificates/a/b/get", "cdf/certificates/+/get", "cdf/certificates//ack",
	} {
		r.replies = nil
		r.primary.handler.Serve(r.ctx, vending.Message{Topic: topic, Caller: d.caller(d.First, certificate.Connection)})
		if len(r.replies) > 0 {
			t.Errorf("%s is answered: %s", topic, r.replies[0].payload)
		}
	}
	// What is no certificate's id, as an IAM principal's, is bound to nobody.
	d.Ask(Cert{ID: "AROAEXAMPLE:session"}, protocol.Ack, "").Refused(protocol.NotBound)
	d.WantStates()
}
