package aws

import (
	"context"
	"crypto"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/acmpca/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

const iotCA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// pcaRig is an issuer on the double, and what it keeps its notes in.
type pcaRig struct {
	*double
	config PCAConfig
	notes  *notes
	clock  time.Time
}

func newPCARig(t *testing.T, key crypto.Signer) *pcaRig {
	t.Helper()
	r := &pcaRig{double: startDouble(t, key), notes: &notes{}, clock: time.Now()}
	r.config = PCAConfig{
		CAs: []PCA{{ARN: fakeCA, Alias: "Mill", Client: r.pca()}}, IoTCAs: []IoTCA{{ID: iotCA, Alias: "mill"}},
		Notes: r.notes, CertInfo: true, MaxDays: 825, Patience: 10 * time.Second, Poll: time.Millisecond, Now: func() time.Time { return r.clock },
	}
	return r
}

// issuer returns one that has only the notes from before, as after a restart.
func (r *pcaRig) issuer(t *testing.T) *PCAIssuer {
	t.Helper()
	p, err := NewPCAIssuer(r.config)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// made is how many certificates ACM PCA would have charged for.
func (r *pcaRig) made() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.arns)
}

func TestCases44And54PCAIssuer(t *testing.T) {
	for kind, key := range caKeys(t) {
		t.Run(kind, func(t *testing.T) {
			r := newPCARig(t, key)
			r.polls = 2
			testIssuer(t, candidate{Issuer: r.issuer(t), root: r.root, notAfter: r.ca.NotAfter})
			if n := r.count("ACMPrivateCA.DescribeCertificateAuthority"); n != 1 {
				t.Errorf("the CA was described %d times", n)
			}
		})
	}
}

func reasonOf(err error) protocol.Reason {
	var refusal *vending.Error
	if errors.As(err, &refusal) {
		return refusal.Reason
	}
	return ""
}

// What a device may ask for, and the original's four messages.
func TestAskedCA(t *testing.T) {
	r := newPCARig(t, ecKey(t))
	p := r.issuer(t)
	for name, c := range map[string]struct {
		asked protocol.ACMPCAParameters
		want  protocol.Reason
	}{
		"case_45_by_aliases":           {protocol.ACMPCAParameters{IoTCAAlias: "MILL", PCAAlias: "mILL"}, ""},
		"by names":                     {protocol.ACMPCAParameters{IoTCAID: iotCA, PCAARN: fakeCA}, ""},
		"case_50_aliases_before_names": {protocol.ACMPCAParameters{IoTCAAlias: "mill", IoTCAID: "x", PCAAlias: "mill", PCAARN: "x"}, ""},
		"case_46_no_such_IoT_alias":    {protocol.ACMPCAParameters{IoTCAAlias: "x", PCAAlias: "x"}, "Invalid `awsiotCaAlias`."},
		"case_47_no_such_PCA_alias":    {protocol.ACMPCAParameters{IoTCAAlias: "mill", PCAAlias: "PATH"}, "Invalid `acmpcaCaAlias`."},
		"case_48_no_IoT_CA":            {protocol.ACMPCAParameters{PCAAlias: "mill"}, "Either `awsiotCaAlias` or `awsiotCaId` must be provided"},
		"case_49_no_PCA":               {protocol.ACMPCAParameters{IoTCAID: iotCA}, "Either `acmpcaCaAlias` or `acmpcaCaArn` must be provided."},
		"nothing":                      {protocol.ACMPCAParameters{CertInfo: &protocol.CertInfo{}}, "Either `awsiotCaAlias` or `awsiotCaId` must be provided"},
		"another's IoT CA":             {protocol.ACMPCAParameters{IoTCAID: strings.Repeat("b", 64), PCAARN: fakeCA}, protocol.CANotAllowed},
		"case_51_another's_PCA":        {protocol.ACMPCAParameters{IoTCAID: iotCA, PCAARN: fakeCA + "0"}, protocol.CANotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			order := orderFor(t, "pump-7", ecKey(t))
			order.Asked = &c.asked
			before := r.made()
			_, err := p.Issue(t.Context(), order)
			if reasonOf(err) != c.want || (err == nil) != (c.want == "") || (r.made() > before) != (c.want == "") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func withInfo(t testing.TB, info protocol.CertInfo) certificate.Order {
	t.Helper()
	order := orderFor(t, "pump-7", ecKey(t))
	order.Asked = &protocol.ACMPCAParameters{IoTCAAlias: "mill", PCAAlias: "mill", CertInfo: &info}
	return order
}

// Every member of certInfo ends up in the certificate.
func TestCase52CertInfo(t *testing.T) {
	r := newPCARig(t, ecKey(t))
	c, err := r.issuer(t).Issue(t.Context(), withInfo(t, protocol.CertInfo{
		CommonName: "pump-7", Organization: "Mühle", OrganizationalUnit: "Pumps", Locality: "Bergen", StateName: "Vestland",
		Country: "NO", EmailAddress: "ops@mill.example", DaysExpiry: new(30),
	}))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := c.X509()
	if err != nil {
		t.Fatal(err)
	}
	s := parsed.Subject
	if s.CommonName != "pump-7" || !slices.Equal(s.Organization, []string{"Mühle"}) || !slices.Equal(s.OrganizationalUnit, []string{"Pumps"}) ||
		!slices.Equal(s.Locality, []string{"Bergen"}) || !slices.Equal(s.Province, []string{"Vestland"}) || !slices.Equal(s.Country, []string{"NO"}) {
		t.Errorf("subject %s", s)
	}
	if !slices.Equal(parsed.EmailAddresses, []string{"ops@mill.example"}) || len(parsed.URIs) != 1 || parsed.URIs[0].String() != "urn:certvendor:device:pump-7" {
		t.Errorf("alternative names %v %v", parsed.EmailAddresses, parsed.URIs)
	}
	if want := r.clock.AddDate(0, 0, 30).Truncate(time.Second); !parsed.NotAfter.Equal(want) {
		t.Errorf("until %s, want %s", parsed.NotAfter, want)
	}
}

func TestCase53CertInfoThatIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		info   protocol.CertInfo
		change func(*PCAConfig)
		want   protocol.Reason
	}{
		"another's name":         {info: protocol.CertInfo{CommonName: "pump-8"}, want: protocol.CSRRejected},
		"a country of three":     {info: protocol.CertInfo{Country: "NOR"}, want: protocol.Malformed},
		"a country of no letter": {info: protocol.CertInfo{Country: "Øø"}, want: protocol.Malformed},
		"a long organization":    {info: protocol.CertInfo{Organization: strings.Repeat("ø", 65)}, want: protocol.Malformed},
		"no address":             {info: protocol.CertInfo{EmailAddress: "ops"}, want: protocol.Malformed},
		"a name with an address": {info: protocol.CertInfo{EmailAddress: "Ops <ops@mill.example>"}, want: protocol.Malformed},
		"no day":                 {info: protocol.CertInfo{DaysExpiry: new(0)}, want: protocol.Malformed},
		"too many days":          {info: protocol.CertInfo{DaysExpiry: new(826)}, want: protocol.Malformed},
		"days of one's own":      {info: protocol.CertInfo{DaysExpiry: new(1)}, change: func(c *PCAConfig) { c.MaxDays = 0 }, want: protocol.Malformed},
		"switched off":           {info: protocol.CertInfo{Locality: "Bergen"}, change: func(c *PCAConfig) { c.CertInfo = false }, want: protocol.CSRRejected},
		"a CA that goes by CSR":  {info: protocol.CertInfo{Locality: "Bergen"}, change: func(c *PCAConfig) { c.CAs[0].FromCSR = true }, want: protocol.Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			r := newPCARig(t, ecKey(t))
			if c.change != nil {
				c.change(&r.config)
			}
			if _, err := r.issuer(t).Issue(t.Context(), withInfo(t, c.info)); reasonOf(err) != c.want || r.made() != 0 {
				t.Errorf("got %v, %d made", err, r.made())
			}
		})
	}
}

// A request that waits too long is told so, and gets the same certificate when
// it comes again, also after a restart.
func TestCase55PCAIsResumed(t *testing.T) {
	r := newPCARig(t, ecKey(t))
	r.polls, r.config.Patience = 1<<30, 20*time.Millisecond
	order := orderFor(t, "pump-7", ecKey(t))
	for range 2 {
		if _, err := r.issuer(t).Issue(t.Context(), order); reasonOf(err) != protocol.TryAgainLater {
			t.Fatalf("got %v", err)
		}
	}
	r.script(func() {
		for arn := range r.pollsLeft {
			r.pollsLeft[arn] = 1
		}
	})
	r.clock = r.clock.Add(24 * time.Hour) // longer than any token is good for
	r.config.Patience = 10 * time.Second
	first, err := r.issuer(t).Issue(t.Context(), order)
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.issuer(t).Issue(t.Context(), order)
	if err != nil || again.ID != first.ID || r.made() != 1 || r.count("ACMPrivateCA.IssueCertificate") != 1 {
		t.Errorf("%d made in %d calls: %v", r.made(), r.count("ACMPrivateCA.IssueCertificate"), err)
	}
}

// The process dies between the call and the note of its answer: within the
// token's time the same call is made again.
func TestPCADiesAfterTheCall(t *testing.T) {
	r := newPCARig(t, ecKey(t))
	order := orderFor(t, "pump-7", ecKey(t))
	full := &failAt{notes: r.notes, left: 1}
	r.config.Notes = full
	if _, err := r.issuer(t).Issue(t.Context(), order); err == nil || r.made() != 1 {
		t.Fatalf("%d made: %v", r.made(), err)
	}
	r.config.Notes = r.notes
	r.clock = r.clock.Add(3 * time.Minute)
	order.NotAfter = order.NotAfter.Add(3 * time.Minute) // as it would be ordered then
	if _, err := r.issuer(t).Issue(t.Context(), order); err != nil || r.made() != 1 || r.count("ACMPrivateCA.IssueCertificate") != 2 {
		t.Errorf("%d made in %d calls: %v", r.made(), r.count("ACMPrivateCA.IssueCertificate"), err)
	}
}

// Nothing is asked for that was not noted before.
func TestPCANotesFirst(t *testing.T) {
	r := newPCARig(t, ecKey(t))
	r.notes.broken = errors.New("disk full")
	if _, err := r.issuer(t).Issue(t.Context(), orderFor(t, "pump-7", ecKey(t))); err == nil || r.count("ACMPrivateCA.IssueCertificate") != 0 {
		t.Errorf("asked without a note: %v", err)
	}
}

// failAt keeps so many notes, and then none.
type failAt struct {
	*notes
	left int
}

func (f *failAt) SetMeta(ctx context.Context, key, text string) error {
	if f.left--; f.left < 0 {
		return errors.New("disk full")
	}
	return f.notes.SetMeta(ctx, key, text)
}

// Another rotation, another key and another wish are other certificates.
func TestPCAOrdersThatAreNotTheSame(t *testing.T) {
	r := newPCARig(t, ecKey(t))
	p := r.issuer(t)
	key := ecKey(t)
	base := orderFor(t, "pump-7", key)
	next, other, wish, unnumbered := base, orderFor(t, "pump-7", ecKey(t)), base, base
	next.Rotation, unnumbered.Rotation = 2, 0
	wish.Asked = &protocol.ACMPCAParameters{IoTCAAlias: "mill", PCAAlias: "mill", CertInfo: &protocol.CertInfo{Locality: "Bergen"}}
	for i, order := range []certificate.Order{base, next, other, base, wish, unnumbered, unnumbered} {
		if _, err := p.Issue(t.Context(), order); err != nil || r.made() != i+1 {
			t.Errorf("order %d: %d made: %v", i, r.made(), err)
		}
	}
	before := r.made()
	if _, err := p.Issue(t.Context(), wish); err != nil || r.made() != before {
		t.Errorf("what was issued by hand made the rotation forget: %d made: %v", r.made()-before, err)
	}
	base.Request = nil
	if _, err := p.Issue(t.Context(), base); !errors.Is(err, errNoRequest) {
		t.Errorf("without a CSR: %v", err)
	}
}

func TestPCAFailures(t *testing.T) {
	order := orderFor(t, "pump-7", ecKey(t))
	for name, c := range map[string]struct {
		call, kind string
		kindOf     error
		reason     protocol.Reason
	}{
		"no such CA":         {"IssueCertificate", "ResourceNotFoundException", certificate.ErrNoCA, ""},
		"a CA that is off":   {"IssueCertificate", "InvalidStateException", certificate.ErrNoCA, ""},
		"case_56_throttled":  {"IssueCertificate", "ThrottlingException", nil, protocol.TryAgainLater},
		"a CSR it dislikes":  {"IssueCertificate", "MalformedCSRException", nil, ""},
		"not describable":    {"DescribeCertificateAuthority", "ResourceNotFoundException", certificate.ErrNoCA, ""},
		"throttled later":    {"GetCertificate", "ThrottlingException", nil, protocol.TryAgainLater},
		"given up by PCA":    {"GetCertificate", "RequestFailedException", nil, ""},
		"case_57_denied":     {"GetCertificate", "AccessDeniedException", nil, ""},
		"forgotten by PCA":   {"GetCertificate", "ResourceNotFoundException", nil, ""},
		"still being worked": {"GetCertificate", "RequestInProgressException", nil, protocol.TryAgainLater},
	} {
		t.Run(name, func(t *testing.T) {
			r := newPCARig(t, ecKey(t))
			r.config.Patience = 50 * time.Millisecond
			p := r.issuer(t)
			r.script(func() { r.fail["ACMPrivateCA."+c.call] = c.kind })
			_, err := p.Issue(t.Context(), order)
			if err == nil || c.kindOf != nil && !errors.Is(err, c.kindOf) || reasonOf(err) != c.reason {
				t.Errorf("got %v", err)
			}
			r.script(func() { delete(r.fail, "ACMPrivateCA."+c.call) })
			r.config.Patience = 10 * time.Second
			if _, err := r.issuer(t).Issue(t.Context(), order); err != nil {
				t.Errorf("what is mended fails still: %v", err)
			}
		})
	}
	r := newPCARig(t, ecKey(t))
	r.status = "DISABLED"
	if _, err := r.issuer(t).Signs(t.Context()); !errors.Is(err, certificate.ErrNoCA) || !strings.Contains(err.Error(), "DISABLED") {
		t.Errorf("got %v", err)
	}
}

// TestPCAThatIsInactiveInIoT: nothing is paid for that AWS IoT would refuse, and
// what it does not know, or does not say, is no reason.
func TestPCAThatIsInactiveInIoT(t *testing.T) {
	order := orderFor(t, "pump-7", ecKey(t))
	for name, c := range map[string]struct {
		status, fails string
		refused       bool
	}{
		"ACTIVE":         {status: "ACTIVE"},
		"INACTIVE":       {status: "INACTIVE", refused: true},
		"not registered": {fails: notFound},
		"not to be seen": {fails: "UnauthorizedException"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newPCARig(t, ecKey(t))
			r.config.Registry = r.iot()
			r.script(func() {
				r.iotStatus = c.status
				r.fail["GET cacertificate"] = c.fails
			})
			p := r.issuer(t)
			_, err := p.Issue(t.Context(), order)
			if errors.Is(err, certificate.ErrNoCA) != c.refused || err != nil && !c.refused {
				t.Errorf("got %v", err)
			}
			if c.refused && (r.made() > 0 || !strings.Contains(err.Error(), "INACTIVE")) {
				t.Errorf("%d were made: %v", r.made(), err)
			}
			_, said := p.Signs(t.Context())
			if errors.Is(said, certificate.ErrNoCA) != c.refused {
				t.Errorf("it says that it signs: %v", said)
			}
		})
	}
}

// A CA for short lives signs for seven days, whatever is ordered.
func TestShortLivedCA(t *testing.T) {
	r := newPCARig(t, ecKey(t))
	r.shortLife = true
	p := r.issuer(t)
	c, err := p.Issue(t.Context(), orderFor(t, "pump-7", ecKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	want := r.clock.Add(shortLife)
	until, err := p.Signs(t.Context())
	if err != nil || !until.Equal(want) || !c.NotAfter.Equal(want.Truncate(time.Second)) {
		t.Errorf("until %s, said until %s, want %s: %v", c.NotAfter, until, want, err)
	}
}

func TestCAThatGoesByTheCSR(t *testing.T) {
	r := newPCARig(t, ecKey(t))
	r.config.CAs[0].FromCSR = true
	p := r.issuer(t)
	order := orderFor(t, "pump-7", ecKey(t))
	if _, err := p.Issue(t.Context(), order); err != nil {
		t.Error(err)
	}
	// The same name as openssl writes it, UTF8String instead of PrintableString.
	key := ecKey(t)
	utf8, err := asn1.Marshal(pkix.RDNSequence{{{Type: []int{2, 5, 4, 3}, Value: asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte("pump-7")}}}})
	if err != nil {
		t.Fatal(err)
	}
	order = orderFor(t, "pump-7", key)
	order.Request = csrWith(t, utf8, key)
	if _, err := p.Issue(t.Context(), order); err != nil {
		t.Error(err)
	}
	order = orderFor(t, "pump-7", ecKey(t))
	order.RawSubject = orderFor(t, "pump-8", ecKey(t)).RawSubject
	if _, err := p.Issue(t.Context(), order); reasonOf(err) != protocol.CSRRejected || r.made() != 2 {
		t.Errorf("got %v", err)
	}
}

// Where the decided subject is another than the CSR's, the decided one counts.
func TestDecidedSubjectCounts(t *testing.T) {
	r := newPCARig(t, ecKey(t))
	order := orderFor(t, "pump-7", ecKey(t))
	csr := orderFor(t, "pump-8", ecKey(t))
	order.Request, order.Key = csr.Request, csr.Key
	c, err := r.issuer(t).Issue(t.Context(), order)
	if err != nil || !strings.Contains(c.Subject, "CN=pump-7") {
		t.Errorf("for %s: %v", c.Subject, err)
	}
	// A name that no common name has room for is in the alternative name alone.
	long := registry.DeviceID(strings.Repeat("p", 100))
	key := ecKey(t)
	order = orderFor(t, long, key)
	order.RawSubject = nil
	if _, err := r.issuer(t).Issue(t.Context(), order); reasonOf(err) != protocol.CSRRejected {
		t.Errorf("got %v", err)
	}
	order.Request = csrWith(t, nil, key)
	if c, err = r.issuer(t).Issue(t.Context(), order); err != nil || c.Subject != "" {
		t.Errorf("for %q: %v", c.Subject, err)
	}
}

func TestSubjectsInPCAsWords(t *testing.T) {
	named := subjectOf([]attribute{{commonNameOID, "a"}, {"2.5.4.5", "7"}, {"2.5.4.65", "p"}})
	if *named.CommonName != "a" || *named.SerialNumber != "7" || *named.Pseudonym != "p" || named.CustomAttributes != nil {
		t.Errorf("%+v", named)
	}
	for _, attributes := range [][]attribute{
		{{commonNameOID, "a"}, {"2.5.4.11", "x"}, {"2.5.4.11", "y"}},
		{{commonNameOID, "a"}, {"1.2.840.113549.1.9.1", "ops@mill.example"}},
	} {
		custom := subjectOf(attributes)
		if custom.CommonName != nil || len(custom.CustomAttributes) != len(attributes) || *custom.CustomAttributes[0].ObjectIdentifier != commonNameOID {
			t.Errorf("%+v", custom)
		}
	}
}

func TestAlgorithmFollowsTheCA(t *testing.T) {
	for _, c := range []struct {
		key        types.KeyAlgorithm
		configured types.SigningAlgorithm
		want       types.SigningAlgorithm
	}{
		{types.KeyAlgorithmRsa4096, "", types.SigningAlgorithmSha256withrsa},
		{types.KeyAlgorithmRsa2048, types.SigningAlgorithmSha512withrsaPss, types.SigningAlgorithmSha512withrsaPss},
		{types.KeyAlgorithmEcSecp384r1, "", types.SigningAlgorithmSha384withecdsa},
		{types.KeyAlgorithmEcSecp521r1, "", types.SigningAlgorithmSha512withecdsa},
		{types.KeyAlgorithmEcPrime256v1, types.SigningAlgorithmSha256withrsa, ""},
		{types.KeyAlgorithmMlDsa44, "", ""},
		{types.KeyAlgorithmSm2, "", ""},
	} {
		ca := &pcaCA{PCA: PCA{ARN: fakeCA, Algorithm: c.configured}}
		got, err := ca.algorithm(c.key)
		if got != c.want || (err != nil) != (c.want == "") || err != nil && !errors.Is(err, certificate.ErrNoCA) {
			t.Errorf("%s with %q: %q, %v", c.key, c.configured, got, err)
		}
	}
}

func TestPCAConfigurationsThatCannotWork(t *testing.T) {
	r := newPCARig(t, ecKey(t))
	for want, spoil := range map[string]func(*PCAConfig){
		"must be set":      func(c *PCAConfig) { c.CAs = nil },
		"not the ARN":      func(c *PCAConfig) { c.CAs = []PCA{{ARN: "arn:aws:iot:eu-west-1:1:cert/x", Client: r.pca()}} },
		"no client":        func(c *PCAConfig) { c.CAs = []PCA{{ARN: fakeCA}} },
		"listed twice":     func(c *PCAConfig) { c.CAs = append(slices.Clone(c.CAs), c.CAs[0]) },
		"must not be nega": func(c *PCAConfig) { c.MaxDays = -1 },
	} {
		config := r.config
		spoil(&config)
		if _, err := NewPCAIssuer(config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestCase58PrivateCAIn(t *testing.T) {
	r := newPCARig(t, ecKey(t))
	config := r.double.config()
	config.Region = "us-east-1"
	client, err := PrivateCAIn(config, fakeCA, "")
	if err != nil || client.Options().Region != "eu-west-1" {
		t.Errorf("in %s: %v", client.Options().Region, err)
	}
	if _, err := PrivateCAIn(config, "junk", ""); err == nil {
		t.Error("a client for no CA")
	}
}
