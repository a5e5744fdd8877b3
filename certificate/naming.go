package certificate

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/certvendor/certvendor/registry"
)

// URNPrefix is what a device's name follows in the SAN URI of its
// certificate.
const URNPrefix = "urn:certvendor:device:"

// NameMode says where the subject of a certificate comes from.
type NameMode string

// The modes of naming.
const (
	VerifyName   NameMode = "verify"   // the request's common name, which must be the device's
	ForceName    NameMode = "force"    // the device id, whatever the request says
	PreviousName NameMode = "previous" // the subject of the certificate being replaced
	AcceptName   NameMode = "accept"   // the request's whole subject
)

// Naming is the rule by which a certificate gets its subject. The zero mode is
// VerifyName.
type Naming struct {
	Mode NameMode
	// Patterns are further names by which a device may call itself, each with
	// its id in it once: "{thing}", "lower({thing})" or "base64({thing})",
	// with any text around, as in "prod-{thing}".
	Patterns []string
}

// Names are what Subject needs to know besides the request.
type Names struct {
	Device   registry.DeviceID
	Caller   *Certificate // that the request came over; nil: unknown
	Previous *Certificate // that is being replaced; nil: unknown
	// Known says whether there is a device of that name. It is asked only
	// about names that are not this device's. Nil: no other device is known.
	Known func(registry.DeviceID) (bool, error)
}

// maxCommonName is in characters (RFC 5280, appendix A.1, ub-common-name).
const maxCommonName = 64

var pattern = regexp.MustCompile(`^([^{}()]*?)(?:(lower|base64)\(\{thing\}\)|\{thing\})([^{}()]*)$`)

// Validate reports an unknown mode or a pattern that cannot be read.
func (n Naming) Validate() error {
	switch n.Mode {
	case "", VerifyName, ForceName, PreviousName, AcceptName:
	default:
		return fmt.Errorf("csr.subject: %q is none of verify, force, previous, accept", n.Mode)
	}
	for _, p := range n.Patterns {
		if !pattern.MatchString(p) || !printable(p) {
			return fmt.Errorf("csr.cn: %q must hold {thing}, lower({thing}) or base64({thing}) once, and no other braces or parentheses", p)
		}
	}
	return nil
}

// Subject returns the DER of the subject that the certificate for a request
// gets, or an error of kind ErrRequest if the request asks for a name it may
// not have. Other errors are those of Known. It may return the empty name.
func (n Naming) Subject(req *Request, about Names) ([]byte, error) {
	asked, err := namesIn(req.CSR)
	if err != nil {
		return nil, err
	}
	if n.Mode == ForceName {
		return commonName(string(about.Device))
	}
	if asked.unreadable {
		return nil, refuse("a subject or an alternative name of a kind that cannot be checked")
	}
	if n.Mode == VerifyName || n.Mode == "" {
		if err := n.verify(asked, about); err != nil {
			return nil, err
		}
	}
	if err := n.refuseOthers(asked, about); err != nil {
		return nil, err
	}
	switch n.Mode {
	case PreviousName:
		return previousSubject(about.Previous)
	case AcceptName:
		return acceptedSubject(req.CSR)
	}
	if asked.common != "" {
		return commonName(asked.common)
	}
	return commonName(string(about.Device))
}

// verify refuses a request that calls the device anything it is not called.
func (n Naming) verify(asked askedNames, about Names) error {
	for _, name := range asked.alternative {
		if !n.Own(name, about.Device) {
			return refuse("an alternative name that is not this device's")
		}
	}
	if asked.common == "" || n.Own(asked.common, about.Device) {
		return nil
	}
	if about.Caller != nil {
		held, err := about.Caller.X509()
		if err != nil {
			return err
		}
		if held.Subject.CommonName == asked.common {
			return nil
		}
	}
	return refuse("a common name that is not this device's")
}

// Own reports whether a name is one of the device's own.
func (n Naming) Own(name string, id registry.DeviceID) bool {
	return name == string(id) || name == URNPrefix+string(id) ||
		slices.ContainsFunc(n.Patterns, func(p string) bool { return expand(p, id) == name })
}

// refuseOthers refuses a request that names another device.
func (n Naming) refuseOthers(asked askedNames, about Names) error {
	if about.Known == nil {
		return nil
	}
	for _, name := range asked.all() {
		for _, id := range n.meant(name) {
			if id == about.Device {
				continue
			}
			known, err := about.Known(id)
			if err != nil {
				return fmt.Errorf("look up a name of the request: %w", err)
			}
			if known {
				return refuse("it names another device")
			}
		}
	}
	return nil
}

// meant returns the devices that a name may stand for: as it is, as a URN, or
// by a pattern that can be read backwards.
func (n Naming) meant(name string) []registry.DeviceID {
	texts := []string{name, strings.TrimPrefix(name, URNPrefix)}
	for _, p := range n.Patterns {
		parts := pattern.FindStringSubmatch(p)
		inner, ok := strings.CutPrefix(name, parts[1])
		inner, ok2 := strings.CutSuffix(inner, parts[3])
		if !ok || !ok2 {
			continue
		}
		if parts[2] == "base64" {
			decoded, err := base64.StdEncoding.DecodeString(inner)
			if err != nil {
				continue
			}
			inner = string(decoded)
		}
		texts = append(texts, inner)
	}
	var ids []registry.DeviceID
	for _, text := range texts {
		if id, err := registry.ParseDeviceID(text); err == nil && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// expand returns what a valid pattern calls a device.
func expand(p string, id registry.DeviceID) string {
	parts := pattern.FindStringSubmatch(p)
	name := string(id)
	switch parts[2] {
	case "lower":
		name = strings.ToLower(name)
	case "base64":
		name = base64.StdEncoding.EncodeToString([]byte(name))
	}
	return parts[1] + name + parts[3]
}

// commonName returns the name that consists of a common name, or the empty
// name where that has too many characters to be one: the SAN URI names the
// device then.
func commonName(cn string) ([]byte, error) {
	name := pkix.Name{CommonName: cn}
	if utf8.RuneCountInString(cn) > maxCommonName {
		name.CommonName = ""
	}
	raw, err := asn1.Marshal(name.ToRDNSequence())
	if err != nil {
		return nil, refuse("the common name cannot be encoded")
	}
	return raw, nil
}

func previousSubject(previous *Certificate) ([]byte, error) {
	if previous == nil {
		return nil, refuse("the certificate whose subject would be taken over is not known")
	}
	parsed, err := previous.X509()
	if err != nil {
		return nil, err
	}
	return bytes.Clone(parsed.RawSubject), nil
}
