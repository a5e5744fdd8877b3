package certificate

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// askedNames are the names in a request.
type askedNames struct {
	common      string
	alternative []string
	unreadable  bool // there is a name that cannot be compared with anything
}

func (a askedNames) all() []string {
	if a.common == "" {
		return a.alternative
	}
	return append([]string{a.common}, a.alternative...)
}

// maxNames bounds what a request can make us look up.
const maxNames = 16

var (
	oidCommonName     = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// namesIn collects the names of a request: the common name and all that any
// subjectAltName extension holds. crypto/x509 keeps the last common name and
// the last such extension only, and skips kinds it does not know; another
// reader may see what it skipped.
func namesIn(csr *x509.CertificateRequest) (askedNames, error) {
	asked, err := commonNameIn(csr.Subject.Names)
	if err != nil {
		return asked, err
	}
	for _, extension := range csr.Extensions {
		if !extension.Id.Equal(oidSubjectAltName) {
			continue
		}
		if err := asked.addAlternatives(extension.Value); err != nil {
			return asked, err
		}
	}
	for _, name := range asked.all() {
		if !printable(name) {
			return asked, refuse("a name with control characters or invalid text")
		}
	}
	return asked, nil
}

func commonNameIn(names []pkix.AttributeTypeAndValue) (askedNames, error) {
	var asked askedNames
	count := 0
	for _, attribute := range names {
		if !attribute.Type.Equal(oidCommonName) {
			continue
		}
		if count++; count > 1 {
			return asked, refuse("more than one common name")
		}
		text, ok := attribute.Value.(string)
		asked.common, asked.unreadable = text, !ok
	}
	return asked, nil
}

// addAlternatives reads a GeneralNames (RFC 5280, 4.2.1.6).
func (a *askedNames) addAlternatives(der []byte) error {
	var sequence asn1.RawValue
	rest, err := asn1.Unmarshal(der, &sequence)
	if err != nil || len(rest) > 0 || sequence.Tag != asn1.TagSequence || !sequence.IsCompound {
		return refuse("an unreadable subjectAltName")
	}
	for rest = sequence.Bytes; len(rest) > 0; {
		var name asn1.RawValue
		if rest, err = asn1.Unmarshal(rest, &name); err != nil {
			return refuse("an unreadable subjectAltName")
		}
		if len(a.alternative) == maxNames {
			return refuse("more than %d alternative names", maxNames)
		}
		address, isAddress := netip.AddrFromSlice(name.Bytes)
		switch {
		case name.Class != asn1.ClassContextSpecific:
			a.unreadable = true
		case name.Tag == 1 || name.Tag == 2 || name.Tag == 6: // rfc822Name, dNSName, URI
			a.alternative = append(a.alternative, string(name.Bytes))
		case name.Tag == 7 && isAddress: // iPAddress
			a.alternative = append(a.alternative, address.String())
		default:
			a.unreadable = true
		}
	}
	return nil
}

// printable reports whether a text is valid UTF-8 without control characters.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || r == utf8.RuneError
	})
}

// upperBound is the most characters that an attribute may have (RFC 5280,
// appendix A.1), or 128 for those it does not list.
func upperBound(attribute asn1.ObjectIdentifier) int {
	switch attribute.String() {
	case "2.5.4.6": // countryName
		return 2
	case "2.5.4.3", "2.5.4.5", "2.5.4.10", "2.5.4.11", "2.5.4.12": // name, serial number, organization, unit, title
		return maxCommonName
	case "1.2.840.113549.1.9.1": // emailAddress
		return 255
	case "0.9.2342.19200300.100.1.25": // domainComponent, a DNS label
		return 63
	}
	return 128
}

// acceptedSubject returns the request's subject as it came, if a certificate
// may carry it.
func acceptedSubject(csr *x509.CertificateRequest) ([]byte, error) {
	for _, attribute := range csr.Subject.Names {
		text, ok := attribute.Value.(string)
		length := utf8.RuneCountInString(text)
		if !ok || !printable(text) || length == 0 || length > upperBound(attribute.Type) {
			return nil, refuse("a subject attribute %s that a certificate may not have", attribute.Type)
		}
	}
	return bytes.Clone(csr.RawSubject), nil
}
