package certificate

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/registry"
)

const device registry.DeviceID = "Sensor-1"

// others are the further devices of these tests.
func others(id registry.DeviceID) (bool, error) {
	return id == "sensor-2" || id == "Sensor-3", nil
}

func request(t *testing.T, template x509.CertificateRequest) *Request {
	t.Helper()
	req, err := ParseRequest(csr(t, ecKey(t, elliptic.P256()), template))
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// held returns a certificate with a subject, as the inventory would.
func held(t *testing.T, subject pkix.Name) *Certificate {
	t.Helper()
	key := ecKey(t, elliptic.P256())
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: subject, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(der, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

// subject returns the RFC 2253 text of a raw name.
func subject(t *testing.T, raw []byte) string {
	t.Helper()
	var rdns pkix.RDNSequence
	if rest, err := asn1.Unmarshal(raw, &rdns); err != nil || len(rest) > 0 {
		t.Fatalf("not a name: %x: %v", raw, err)
	}
	return rdns.String()
}

func extension(der []byte) x509.CertificateRequest {
	template := named(string(device))
	template.ExtraExtensions = []pkix.Extension{{Id: oidSubjectAltName, Value: der}}
	return template
}

func generalNames(t *testing.T, names ...asn1.RawValue) []byte {
	t.Helper()
	der, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func dnsName(name string) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte(name)}
}

func rdn(values ...any) pkix.Name {
	var name pkix.Name
	for _, value := range values {
		name.ExtraNames = append(name.ExtraNames, pkix.AttributeTypeAndValue{Type: oidCommonName, Value: value})
	}
	return name
}

func TestSubject(t *testing.T) {
	urn, err := url.Parse(URNPrefix + string(device))
	if err != nil {
		t.Fatal(err)
	}
	patterns := []string{"base64({thing})", "prod-{thing}", "lower({thing}).fleet.example"}
	full := pkix.Name{CommonName: string(device), Organization: []string{"Mill"}, Country: []string{"NO"}}
	long := registry.DeviceID(strings.Repeat("x", 65))
	for name, test := range map[string]struct {
		naming  Naming
		request x509.CertificateRequest
		about   Names
		want    string
	}{
		"verify, no common name":            {request: x509.CertificateRequest{}, want: "CN=Sensor-1"},
		"verify, the device's":              {request: named("Sensor-1"), want: "CN=Sensor-1"},
		"verify spelled out":                {naming: Naming{Mode: VerifyName}, request: named("Sensor-1"), want: "CN=Sensor-1"},
		"verify, the rest is left out":      {request: x509.CertificateRequest{Subject: full}, want: "CN=Sensor-1"},
		"verify, the held certificate's":    {request: named("old name"), about: Names{Caller: held(t, pkix.Name{CommonName: "old name"})}, want: "CN=old name"},
		"verify, base64 pattern":            {naming: Naming{Patterns: patterns}, request: named("U2Vuc29yLTE="), want: "CN=U2Vuc29yLTE="},
		"verify, prefix pattern":            {naming: Naming{Patterns: patterns}, request: named("prod-Sensor-1"), want: "CN=prod-Sensor-1"},
		"verify, lower pattern":             {naming: Naming{Patterns: patterns}, request: named("sensor-1.fleet.example"), want: "CN=sensor-1.fleet.example"},
		"verify, id too long for a name":    {request: x509.CertificateRequest{}, about: Names{Device: long}, want: ""},
		"verify, too long and asked for":    {request: named(string(long)), about: Names{Device: long}, want: ""},
		"verify, 64 characters fit":         {request: x509.CertificateRequest{}, about: Names{Device: long[:64]}, want: "CN=" + string(long[:64])},
		"verify, DNS name is the id":        {request: x509.CertificateRequest{DNSNames: []string{"Sensor-1"}}, want: "CN=Sensor-1"},
		"verify, DNS name by pattern":       {naming: Naming{Patterns: patterns}, request: x509.CertificateRequest{DNSNames: []string{"sensor-1.fleet.example"}}, want: "CN=Sensor-1"},
		"verify, URI is the device's URN":   {request: x509.CertificateRequest{URIs: []*url.URL{urn}}, want: "CN=Sensor-1"},
		"verify, id that looks like an IP":  {request: x509.CertificateRequest{IPAddresses: []net.IP{net.ParseIP("fe80::1")}}, about: Names{Device: "fe80::1"}, want: "CN=fe80::1"},
		"force, nothing asked":              {naming: Naming{Mode: ForceName}, request: x509.CertificateRequest{}, want: "CN=Sensor-1"},
		"force, another device's name":      {naming: Naming{Mode: ForceName}, request: named("sensor-2"), want: "CN=Sensor-1"},
		"force, a name of an unknown kind":  {naming: Naming{Mode: ForceName}, request: extension(generalNames(t, asn1.RawValue{Class: 2, Tag: 8, Bytes: []byte{0x2a}})), want: "CN=Sensor-1"},
		"previous":                          {naming: Naming{Mode: PreviousName}, request: named("whatever"), about: Names{Previous: held(t, full)}, want: "CN=Sensor-1,O=Mill,C=NO"},
		"previous, of a shared certificate": {naming: Naming{Mode: PreviousName}, request: x509.CertificateRequest{}, about: Names{Previous: held(t, pkix.Name{CommonName: "sensor-2"})}, want: "CN=sensor-2"},
		"accept, all of it":                 {naming: Naming{Mode: AcceptName}, request: x509.CertificateRequest{Subject: full}, want: "CN=Sensor-1,O=Mill,C=NO"},
		"accept, a name of nobody":          {naming: Naming{Mode: AcceptName}, request: named("anything"), want: "CN=anything"},
		"accept, no name at all":            {naming: Naming{Mode: AcceptName}, request: x509.CertificateRequest{}, want: ""},
		"accept, SAN of a host":             {naming: Naming{Mode: AcceptName}, request: x509.CertificateRequest{DNSNames: []string{"host.example"}}, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			about := test.about
			if about.Device == "" {
				about.Device = device
			}
			about.Known = others
			raw, err := test.naming.Subject(request(t, test.request), about)
			if err != nil {
				t.Fatal(err)
			}
			if got := subject(t, raw); got != test.want {
				t.Errorf("subject %q, want %q", got, test.want)
			}
		})
	}
}

func TestAcceptedSubjectIsByteIdentical(t *testing.T) {
	raw, err := asn1.Marshal(pkix.RDNSequence{{{Type: oidCommonName, Value: asn1.RawValue{Tag: asn1.TagIA5String, Bytes: []byte("ia5")}}}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Naming{Mode: AcceptName}.Subject(request(t, x509.CertificateRequest{RawSubject: raw}), Names{Device: device})
	if err != nil || !bytes.Equal(got, raw) {
		t.Errorf("got %x, %v, want %x", got, err, raw)
	}
}

func TestSubjectThatIsRefused(t *testing.T) {
	accept, previous := Naming{Mode: AcceptName}, Naming{Mode: PreviousName}
	many := x509.CertificateRequest{}
	for range maxNames + 1 {
		many.DNSNames = append(many.DNSNames, string(device))
	}
	notText := asn1.RawValue{Tag: asn1.TagInteger, Bytes: []byte{7}}
	for name, test := range map[string]struct {
		naming  Naming
		request x509.CertificateRequest
		about   Names
		detail  string
	}{
		"verify, another known device":       {request: named("sensor-2"), detail: "common name"},
		"verify, an unknown name":            {request: named("nobody"), detail: "common name"},
		"verify, other case":                 {request: named("sensor-1"), detail: "common name"},
		"verify, not the held one's":         {request: named("new name"), about: Names{Caller: held(t, pkix.Name{CommonName: "old name"})}, detail: "common name"},
		"verify, held one is another's name": {request: named("sensor-2"), about: Names{Caller: held(t, pkix.Name{CommonName: "sensor-2"})}, detail: "another device"},
		"verify, two common names":           {request: x509.CertificateRequest{Subject: rdn("sensor-2", string(device))}, detail: "more than one"},
		"verify, common name not a text":     {request: x509.CertificateRequest{Subject: rdn(notText)}, detail: "cannot be checked"},
		"verify, DNS name of another":        {request: x509.CertificateRequest{DNSNames: []string{"sensor-2"}}, detail: "alternative name"},
		"verify, one SAN of two":             {request: x509.CertificateRequest{DNSNames: []string{string(device), "x"}}, detail: "alternative name"},
		"verify, e-mail":                     {request: x509.CertificateRequest{EmailAddresses: []string{"a@b.example"}}, detail: "alternative name"},
		"verify, IP address":                 {request: x509.CertificateRequest{IPAddresses: []net.IP{{10, 0, 0, 1}}}, detail: "alternative name"},
		"verify, URN of another":             {request: x509.CertificateRequest{URIs: []*url.URL{{Scheme: "urn", Opaque: "certvendor:device:sensor-2"}}}, detail: "alternative name"},
		"verify, SAN of an unknown kind":     {request: extension(generalNames(t, asn1.RawValue{Class: 2, Tag: 8, Bytes: []byte{0x2a}})), detail: "cannot be checked"},
		"verify, NUL in the common name":     {request: named(string(device) + "\x00"), detail: "control characters"},
		"verify, newline in a DNS name":      {request: extension(generalNames(t, dnsName("Sensor-1\nx"))), detail: "control characters"},
		"verify, more SANs than we look up":  {request: many, detail: "more than 16"},
		"force, NUL in the common name":      {naming: Naming{Mode: ForceName}, request: named("a\x00b"), detail: "control characters"},
		"previous, unknown":                  {naming: previous, request: x509.CertificateRequest{}, detail: "not known"},
		"previous, but names another":        {naming: previous, request: named("sensor-2"), about: Names{Previous: held(t, pkix.Name{CommonName: "x"})}, detail: "another device"},
		"accept, another's name":             {naming: accept, request: named("sensor-2"), detail: "another device"},
		"accept, another's name in a SAN":    {naming: accept, request: x509.CertificateRequest{DNSNames: []string{"sensor-2"}}, detail: "another device"},
		"accept, another's URN":              {naming: accept, request: x509.CertificateRequest{URIs: []*url.URL{{Scheme: "urn", Opaque: "certvendor:device:sensor-2"}}}, detail: "another device"},
		"accept, another's name in base64":   {naming: Naming{Mode: AcceptName, Patterns: []string{"base64({thing})"}}, request: named("U2Vuc29yLTM="), detail: "another device"},
		"accept, another's name by prefix":   {naming: Naming{Mode: AcceptName, Patterns: []string{"prod-{thing}"}}, request: named("prod-sensor-2"), detail: "another device"},
		"accept, 65 characters":              {naming: accept, request: named(strings.Repeat("x", 65)), detail: "may not have"},
		"accept, an empty attribute":         {naming: accept, request: x509.CertificateRequest{Subject: rdn("")}, detail: "may not have"},
		"accept, country of three letters":   {naming: accept, request: x509.CertificateRequest{Subject: pkix.Name{Country: []string{"NOR"}}}, detail: "may not have"},
		"accept, control character in O":     {naming: accept, request: x509.CertificateRequest{Subject: pkix.Name{Organization: []string{"a\tb"}}}, detail: "may not have"},
	} {
		t.Run(name, func(t *testing.T) {
			about := test.about
			about.Device, about.Known = device, others
			raw, err := test.naming.Subject(request(t, test.request), about)
			if err == nil {
				t.Fatalf("given %q", subject(t, raw))
			}
			if !errors.Is(err, ErrRequest) || !strings.Contains(RequestDetail(err), test.detail) {
				t.Errorf("%v does not say %q", err, test.detail)
			}
			if strings.Contains(err.Error(), "sensor-2") {
				t.Errorf("repeats the request: %v", err)
			}
		})
	}
}

// crypto/x509 refuses most of these when it parses the request, so they are
// given to the reading of names itself: it must not depend on that.
func TestAlternativeNamesThatCannotBeRead(t *testing.T) {
	two := extension(generalNames(t, dnsName("sensor-2")))
	two.ExtraExtensions = append(two.ExtraExtensions, two.ExtraExtensions[0])
	for name, template := range map[string]x509.CertificateRequest{
		"not a sequence":     extension([]byte{0x04, 0}),
		"cut short":          extension([]byte{0x30, 2, 0x82, 9}),
		"something after":    extension([]byte{0x30, 0, 0x30, 0}),
		"invalid UTF-8":      extension(generalNames(t, dnsName("Sensor\xff"))),
		"extension is twice": two,
	} {
		t.Run(name, func(t *testing.T) {
			parsed := &x509.CertificateRequest{Subject: template.Subject, Extensions: template.ExtraExtensions}
			asked, err := namesIn(parsed)
			if err == nil {
				err = (Naming{}).verify(asked, Names{Device: device})
			}
			if !errors.Is(err, ErrRequest) {
				t.Errorf("namesIn: %v", err)
			}
		})
	}
}

func TestRegistryIsAskedOnlyAboutOthers(t *testing.T) {
	broken := errors.New("registry down")
	about := Names{Device: device, Known: func(registry.DeviceID) (bool, error) { return false, broken }}
	if _, err := (Naming{}).Subject(request(t, named(string(device))), about); err != nil {
		t.Errorf("asked about the device itself: %v", err)
	}
	if _, err := (Naming{Mode: AcceptName}).Subject(request(t, named("not a device id")), about); err != nil {
		t.Errorf("asked about what cannot be a device: %v", err)
	}
	_, err := Naming{Mode: AcceptName}.Subject(request(t, named("someone")), about)
	if !errors.Is(err, broken) || errors.Is(err, ErrRequest) {
		t.Errorf("a broken registry is no refusal of the request: %v", err)
	}
}

func TestNamingValidate(t *testing.T) {
	for name, test := range map[string]struct {
		naming Naming
		valid  bool
	}{
		"zero":                    {Naming{}, true},
		"every kind of pattern":   {Naming{Mode: AcceptName, Patterns: []string{"{thing}", "lower({thing})", "base64({thing})", "a-{thing}.b"}}, true},
		"unknown mode":            {Naming{Mode: "trust"}, false},
		"no device in it":         {Naming{Patterns: []string{"prod"}}, false},
		"empty pattern":           {Naming{Patterns: []string{""}}, false},
		"unknown function":        {Naming{Patterns: []string{"upper({thing})"}}, false},
		"unknown placeholder":     {Naming{Patterns: []string{"{device}"}}, false},
		"device twice":            {Naming{Patterns: []string{"{thing}{thing}"}}, false},
		"parenthesis not closed":  {Naming{Patterns: []string{"lower({thing}"}}, false},
		"function in function":    {Naming{Patterns: []string{"base64(lower({thing}))"}}, false},
		"control character":       {Naming{Patterns: []string{"{thing}\x00"}}, false},
		"one of several is wrong": {Naming{Patterns: []string{"{thing}", "x"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.naming.Validate(); (err == nil) != test.valid {
				t.Errorf("got %v", err)
			}
		})
	}
}
