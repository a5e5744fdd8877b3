package protocol

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ErrMalformed is the kind of every error that decoding a request returns;
// the error's text says which member is wrong and never repeats its value.
var ErrMalformed = errors.New("malformed request")

// Address is what the topic and the connection say about a request. A body
// may repeat it, and is refused if it says anything else.
type Address struct {
	Device      string
	Action      Action
	Certificate string // of the connection; empty where unknown
}

// GetRequest is the body of a get. A nil CSR asks for the pre-created package.
type GetRequest struct {
	CSR                   *string
	PreviousCertificateID string
	ACMPCA                *ACMPCAParameters
	ClientToken           string
}

// ACMPCAParameters let a device name the CA that signs, by alias or by name,
// from the operator's allow-list. Ignored where the issuer is not ACM PCA.
type ACMPCAParameters struct {
	IoTCAAlias string    `json:"awsiotCaAlias,omitempty"`
	IoTCAID    string    `json:"awsiotCaID,omitempty"`
	PCAAlias   string    `json:"acmpcaCaAlias,omitempty"`
	PCAARN     string    `json:"acmpcaCaArn,omitempty"`
	CertInfo   *CertInfo `json:"certInfo,omitempty"`
}

// CertInfo overrides parts of the certificate, where the issuer allows it.
type CertInfo struct {
	CommonName         string `json:"commonName,omitempty"`
	Organization       string `json:"organization,omitempty"`
	OrganizationalUnit string `json:"organizationalUnit,omitempty"`
	Locality           string `json:"locality,omitempty"`
	StateName          string `json:"stateName,omitempty"`
	Country            string `json:"country,omitempty"`
	EmailAddress       string `json:"emailAddress,omitempty"`
	DaysExpiry         *int   `json:"daysExpiry,omitzero"`
}

// AckRequest is the body of an ack. CertificateID and Proof are both empty or
// both set.
type AckRequest struct {
	PreviousCertificateID string
	CertificateID         string
	Proof                 string
	TrustAnchorsSHA256    string // of the text of the trustAnchors that the device has; 64 lower-case hex digits
	ClientToken           string
}

// GetAccepted answers a get: with Location for a package, with Certificate,
// Chain, NotAfter and Nonce for a CSR.
type GetAccepted struct {
	DeviceID      string `json:"deviceId"`
	Action        Action `json:"action"`
	CertificateID string `json:"certificateId"`
	Location      string `json:"location,omitempty"`
	Certificate   string `json:"certificate,omitempty"`  // PEM, the leaf
	Chain         string `json:"chain,omitempty"`        // PEM, issuer first, without the leaf
	NotAfter      string `json:"notAfter,omitempty"`     // RFC 3339, UTC
	Nonce         string `json:"nonce,omitempty"`        // what a proof signs
	TrustAnchors  string `json:"trustAnchors,omitempty"` // PEM, what to verify servers by from now on
	ClientToken   string `json:"clientToken,omitempty"`
}

// AckAccepted answers an ack. Message is "OK".
type AckAccepted struct {
	DeviceID    string `json:"deviceId"`
	Action      Action `json:"action"`
	Message     string `json:"message"`
	ClientToken string `json:"clientToken,omitempty"`
}

// Rejected refuses a request. Firmware acts on Message; Detail is for people.
// RetryAfter is whole seconds, and zero where trying again makes no sense.
type Rejected struct {
	DeviceID    string `json:"deviceId"`
	Action      Action `json:"action"`
	Message     Reason `json:"message"`
	Detail      string `json:"detail,omitempty"`
	RetryAfter  int    `json:"retryAfter,omitzero"`
	ClientToken string `json:"clientToken,omitempty"`
}

// DecodeGet reads the body of a get. An empty body is an empty request.
// Unknown members are ignored; duplicate ones, trailing data and invalid
// UTF-8 are refused. On an error the request still holds the client token, if
// that could be read. It is safe for any input.
func DecodeGet(payload []byte, at Address) (GetRequest, error) {
	var r GetRequest
	m, err := decodeMembers(payload, at, &r.ClientToken)
	if err != nil {
		return r, err
	}
	if raw, ok := m["csr"]; ok {
		r.CSR = new(string)
		if err := readString("csr", raw, r.CSR); err != nil {
			return r, err
		}
		if *r.CSR == "" {
			return r, malformed("csr", "is empty")
		}
	}
	if err := m.optional("previousCertificateId", &r.PreviousCertificateID); err != nil {
		return r, err
	}
	if raw, ok := m["acmpcaParameters"]; ok && raw.Kind() != 'n' {
		r.ACMPCA = new(ACMPCAParameters)
		if raw.Kind() != '{' || json.Unmarshal(raw, r.ACMPCA) != nil {
			return r, malformed("acmpcaParameters", "is not an object of the documented members")
		}
	}
	return r, nil
}

// DecodeAck reads the body of an ack, by the same rules as DecodeGet.
func DecodeAck(payload []byte, at Address) (AckRequest, error) {
	var r AckRequest
	m, err := decodeMembers(payload, at, &r.ClientToken)
	if err != nil {
		return r, err
	}
	for name, into := range map[string]*string{
		"previousCertificateId": &r.PreviousCertificateID,
		"certificateId":         &r.CertificateID,
		"proof":                 &r.Proof,
		"trustAnchorsSha256":    &r.TrustAnchorsSHA256,
	} {
		if err := m.optional(name, into); err != nil {
			return r, err
		}
	}
	if (r.CertificateID == "") != (r.Proof == "") {
		return r, malformed("proof", "goes with certificateId, neither goes alone")
	}
	if r.TrustAnchorsSHA256 != "" && !sha256Hex.MatchString(r.TrustAnchorsSHA256) {
		return r, malformed("trustAnchorsSha256", "is not 64 lower-case hex digits")
	}
	return r, nil
}

var sha256Hex = regexp.MustCompile(`^[0-9a-f]{64}$`)

// AnchorsSHA256 returns what a device acks of the trustAnchors that it has taken:
// the SHA-256 of their text, as 64 lower-case hex digits.
func AnchorsSHA256(anchors string) string {
	sum := sha256.Sum256([]byte(anchors))
	return hex.EncodeToString(sum[:])
}

// Encode returns the JSON of a reply. It panics on a type that is not one of
// this package's, which no input can cause.
func Encode(reply any) []byte {
	payload, err := json.Marshal(reply)
	if err != nil {
		panic(fmt.Sprintf("protocol: encode %T: %v", reply, err))
	}
	return payload
}

// Decode reads a message of this package from JSON, as a device or a job
// client receives it: unknown members are ignored, duplicate ones are refused.
func Decode(payload []byte, into any) error {
	if err := json.Unmarshal(payload, into); err != nil {
		return fmt.Errorf("%w: %T: not the expected JSON", ErrMalformed, into)
	}
	return nil
}

type members map[string]jsontext.Value

// decodeMembers reads the object and the members that both requests share.
func decodeMembers(payload []byte, at Address, token *string) (members, error) {
	if len(payload) > MaxPayload {
		return nil, fmt.Errorf("%w: payload of more than %d octets", ErrMalformed, MaxPayload)
	}
	if len(payload) == 0 {
		return nil, nil
	}
	var m members
	if err := json.Unmarshal(payload, &m); err != nil || m == nil {
		return nil, fmt.Errorf("%w: the payload is not one JSON object", ErrMalformed)
	}
	if err := m.optional("clientToken", token); err != nil {
		return nil, err
	}
	if utf8.RuneCountInString(*token) > MaxClientToken {
		*token = ""
		return nil, malformed("clientToken", fmt.Sprintf("has more than %d characters", MaxClientToken))
	}
	return m, m.checkAddress(at)
}

// checkAddress refuses a body that contradicts its topic or its connection:
// a payload may repeat who speaks, never decide it.
func (m members) checkAddress(at Address) error {
	for name, want := range map[string]string{
		"deviceId": at.Device, "action": string(at.Action), "certId": at.Certificate,
	} {
		raw, ok := m[name]
		if !ok || want == "" {
			continue
		}
		var got string
		if err := readString(name, raw, &got); err != nil {
			return err
		}
		if got != want {
			return malformed(name, "is not what the topic and the connection say")
		}
	}
	return nil
}

// optional reads a string member; a member that is missing or null leaves into
// empty.
func (m members) optional(name string, into *string) error {
	raw, ok := m[name]
	if !ok || raw.Kind() == 'n' {
		return nil
	}
	return readString(name, raw, into)
}

func readString(name string, raw jsontext.Value, into *string) error {
	if raw.Kind() != '"' || json.Unmarshal(raw, into) != nil {
		return malformed(name, "is not a string")
	}
	return nil
}

func malformed(member, what string) error {
	return fmt.Errorf("%w: member %s %s", ErrMalformed, member, what)
}
