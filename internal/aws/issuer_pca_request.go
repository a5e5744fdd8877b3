package aws

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/acmpca"
	"github.com/aws/aws-sdk-go-v2/service/acmpca/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

// The templates: certificates for TLS clients, with subject and alternative
// names as we say, or as the CSR does (ACM PCA user guide, template
// definitions). Any other ignores what is passed on.
const (
	passingTemplate = "template/EndEntityClientAuthCertificate_APIPassthrough/V1"
	csrTemplate     = "template/EndEntityClientAuthCertificate/V1"
)

// request says the order in ACM PCA's words, or refuses what the device asks
// beyond it. Nothing that it refuses has cost anything.
func (p *PCAIssuer) request(order certificate.Order, ca *pcaCA, facts pcaFacts) (*acmpca.IssueCertificateInput, error) {
	var info *protocol.CertInfo
	if order.Asked != nil {
		info = order.Asked.CertInfo
	}
	notAfter, err := p.notAfter(order, facts, info)
	if err != nil {
		return nil, err
	}
	in := &acmpca.IssueCertificateInput{
		CertificateAuthorityArn: &ca.ARN, Csr: csrPEM(order), SigningAlgorithm: facts.algorithm,
		Validity:          &types.Validity{Type: types.ValidityPeriodTypeAbsolute, Value: new(notAfter.Unix())},
		ValidityNotBefore: &types.Validity{Type: types.ValidityPeriodTypeAbsolute, Value: new(order.NotBefore.Unix())},
	}
	parsed, err := arn.Parse(ca.ARN)
	if err != nil {
		return nil, err
	}
	if ca.FromCSR {
		err = fromCSR(order, info)
	} else {
		in.ApiPassthrough, err = p.passed(order, info)
	}
	in.TemplateArn = new(pcaTemplate(parsed.Partition, ca.FromCSR))
	return in, err
}

// pcaTemplate returns the ARN of the template that certificates are made by.
func pcaTemplate(partition string, fromCSR bool) string {
	template := passingTemplate
	if fromCSR {
		template = csrTemplate
	}
	return fmt.Sprintf("arn:%s:acm-pca:::%s", partition, template)
}

// notAfter is when the certificate ends: as ordered, or as the device asks
// where it may, and never later than the CA.
func (p *PCAIssuer) notAfter(order certificate.Order, facts pcaFacts, info *protocol.CertInfo) (time.Time, error) {
	end := order.NotAfter
	if info != nil && info.DaysExpiry != nil {
		days := *info.DaysExpiry
		if days < 1 || days > p.config.MaxDays {
			return end, refuseInfo("daysExpiry", fmt.Sprintf("must be 1 to %d", p.config.MaxDays))
		}
		end = p.config.Now().AddDate(0, 0, days)
	}
	if until := facts.until(p.config.Now()); until.Before(end) {
		end = until
	}
	if !order.NotBefore.Before(end) {
		return end, fmt.Errorf("%w: it ends on %s", certificate.ErrNoCA, end.UTC().Format(time.DateOnly))
	}
	return end, nil
}

func refuseInfo(member, why string) error {
	return &vending.Error{Reason: protocol.Malformed, Detail: "acmpcaParameters.certInfo." + member + " " + why}
}

// fromCSR refuses an order that the CSR alone does not say.
func fromCSR(order certificate.Order, info *protocol.CertInfo) error {
	if info != nil && *info != (protocol.CertInfo{DaysExpiry: info.DaysExpiry}) {
		return refuseInfo("", "is not taken by this CA, which goes by the CSR")
	}
	return saysItself(order)
}

// saysItself refuses an order whose CSR has another subject than was decided,
// for a CA that takes it from there. How the texts are encoded makes no other
// name.
func saysItself(order certificate.Order) error {
	decided, err := attributesOf(order.RawSubject)
	if err != nil {
		return err
	}
	asked, err := attributesOf(order.Request.RawSubject)
	if err != nil || !slices.Equal(decided, asked) {
		return &vending.Error{
			Reason: protocol.CSRRejected, Err: err,
			Detail: "this CA goes by the subject in the CSR, which must be the device's common name alone",
		}
	}
	return nil
}

// passed is what the certificate holds instead of what the CSR says: the
// subject that was decided, with what the device may add to it, and the
// device's name.
func (p *PCAIssuer) passed(order certificate.Order, info *protocol.CertInfo) (*types.ApiPassthrough, error) {
	attributes, err := attributesOf(order.RawSubject)
	if err != nil {
		return nil, err
	}
	names := []types.GeneralName{{UniformResourceIdentifier: new(certificate.URNPrefix + string(order.Device))}}
	if info != nil && *info != (protocol.CertInfo{DaysExpiry: info.DaysExpiry}) {
		if !p.config.CertInfo {
			return nil, &vending.Error{Reason: protocol.CSRRejected, Detail: "acmpcaParameters.certInfo is switched off here"}
		}
		if attributes, err = override(attributes, order, *info); err != nil {
			return nil, err
		}
		if info.EmailAddress != "" {
			if names, err = withEmail(names, info.EmailAddress); err != nil {
				return nil, err
			}
		}
	}
	passed := &types.ApiPassthrough{Extensions: &types.Extensions{SubjectAlternativeNames: names}}
	if len(attributes) == 0 {
		// Where no subject is passed on, ACM PCA takes the CSR's.
		if len(order.Request.Subject.Names) > 0 {
			return nil, &vending.Error{Reason: protocol.CSRRejected, Detail: "the name is too long for a subject: leave it empty in the CSR"}
		}
		return passed, nil
	}
	passed.Subject = subjectOf(attributes)
	return passed, nil
}

// withEmail adds an address as an alternative name: ACM PCA's subject has no
// place for one.
func withEmail(names []types.GeneralName, address string) ([]types.GeneralName, error) {
	parsed, err := mail.ParseAddress(address)
	if err != nil || parsed.Name != "" || parsed.Address != address || !isASCII(address) || len(address) > 254 {
		return nil, refuseInfo("emailAddress", "is not one plain address")
	}
	return append(names, types.GeneralName{Rfc822Name: &address}), nil
}

func isASCII(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

// attribute is one part of a subject.
type attribute struct{ oid, value string }

const commonNameOID = "2.5.4.3"

// attributesOf reads a subject in DER.
func attributesOf(der []byte) ([]attribute, error) {
	if len(der) == 0 {
		return nil, nil
	}
	var name pkix.RDNSequence
	if rest, err := asn1.Unmarshal(der, &name); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("read the subject that was decided: %w", err)
	}
	var all []attribute
	for _, part := range name {
		for _, a := range part {
			value, ok := a.Value.(string)
			if !ok {
				return nil, &vending.Error{Reason: protocol.CSRRejected, Detail: "a subject that is not all text cannot be passed to ACM PCA"}
			}
			all = append(all, attribute{a.Type.String(), value})
		}
	}
	return all, nil
}

func commonNameOf(der []byte) string {
	all, _ := attributesOf(der)
	for _, a := range all {
		if a.oid == commonNameOID {
			return a.value
		}
	}
	return ""
}

// override puts what a device says of itself in the place of what the subject
// says. Its name is not among that: a common name that is not the decided one
// is refused.
func override(subject []attribute, order certificate.Order, info protocol.CertInfo) ([]attribute, error) {
	if info.CommonName != "" && info.CommonName != commonNameOf(order.RawSubject) && info.CommonName != string(order.Device) {
		return nil, &vending.Error{Reason: protocol.CSRRejected, Detail: "acmpcaParameters.certInfo.commonName is not this device's name"}
	}
	subject = slices.Clone(subject)
	for _, part := range []struct {
		member, oid, value string
		most               int // characters (RFC 5280, appendix A.1)
	}{
		{"organization", "2.5.4.10", info.Organization, 64}, {"organizationalUnit", "2.5.4.11", info.OrganizationalUnit, 64},
		{"locality", "2.5.4.7", info.Locality, 128}, {"stateName", "2.5.4.8", info.StateName, 128}, {"country", "2.5.4.6", info.Country, 2},
	} {
		if part.value == "" {
			continue
		}
		length := len([]rune(part.value))
		if length > part.most || part.member == "country" && (length != 2 || !isASCII(part.value)) {
			return nil, refuseInfo(part.member, fmt.Sprintf("must have at most %d characters", part.most))
		}
		subject = slices.DeleteFunc(subject, func(a attribute) bool { return a.oid == part.oid })
		subject = append(subject, attribute{part.oid, part.value})
	}
	return subject, nil
}

// subjectOf says a subject in ACM PCA's words: by names where it has one for
// every part, by object identifiers otherwise, because it mixes them not.
func subjectOf(attributes []attribute) *types.ASN1Subject {
	s := new(types.ASN1Subject)
	fields := map[string]**string{
		commonNameOID: &s.CommonName, "2.5.4.6": &s.Country, "2.5.4.46": &s.DistinguishedNameQualifier,
		"2.5.4.44": &s.GenerationQualifier, "2.5.4.42": &s.GivenName, "2.5.4.43": &s.Initials, "2.5.4.7": &s.Locality,
		"2.5.4.10": &s.Organization, "2.5.4.11": &s.OrganizationalUnit, "2.5.4.65": &s.Pseudonym, "2.5.4.5": &s.SerialNumber,
		"2.5.4.8": &s.State, "2.5.4.4": &s.Surname, "2.5.4.12": &s.Title,
	}
	custom := new(types.ASN1Subject)
	named := true
	for _, a := range attributes {
		custom.CustomAttributes = append(custom.CustomAttributes, types.CustomAttribute{ObjectIdentifier: new(a.oid), Value: new(a.value)})
		field := fields[a.oid]
		if field == nil || *field != nil {
			named = false
			continue
		}
		*field = new(a.value)
	}
	if !named {
		return custom
	}
	return s
}
