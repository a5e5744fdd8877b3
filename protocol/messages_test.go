package protocol_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/certvendor/certvendor/protocol"
)

var (
	atGet = protocol.Address{Device: device, Action: protocol.Get, Certificate: certificateID}
	atAck = protocol.Address{Device: device, Action: protocol.Ack, Certificate: certificateID}
)

func TestDecodeGet(t *testing.T) {
	csr := "x"
	for _, c := range []struct {
		name, body string
		want       protocol.GetRequest
	}{
		{"nothing", ``, protocol.GetRequest{}},
		{"an empty object", `{}`, protocol.GetRequest{}},
		{"white space around", " {}\r\n", protocol.GetRequest{}},
		{"unknown members", `{"foo":1,"CSR":"y"}`, protocol.GetRequest{}},
		{"a csr", `{"csr":"x"}`, protocol.GetRequest{CSR: &csr}},
		{"null for what may be left out", `{"csr":"x","previousCertificateId":null,"acmpcaParameters":null,"clientToken":null}`,
			protocol.GetRequest{CSR: &csr}},
		{"its own address", `{"deviceId":"thing001","action":"get","certId":"` + certificateID + `"}`, protocol.GetRequest{}},
		{"parameters", `{"acmpcaParameters":{"awsiotCaAlias":"dev","other":1}}`,
			protocol.GetRequest{ACMPCA: &protocol.ACMPCAParameters{IoTCAAlias: "dev"}}},
		{"a token of 64 characters", `{"clientToken":"` + strings.Repeat("é", 64) + `"}`,
			protocol.GetRequest{ClientToken: strings.Repeat("é", 64)}},
	} {
		got, err := protocol.DecodeGet([]byte(c.body), atGet)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// malformed are bodies that neither request may have.
func malformedBodies() map[string]string {
	return map[string]string{
		"noise":                       "\x00\xff\x13",
		"text":                        `hello`,
		"a string":                    `"{}"`,
		"an array":                    `[{}]`,
		"a null":                      `null`,
		"white space only":            ` `,
		"half an object":              `{"clientToken":`,
		"two objects":                 `{}{}`,
		"trailing text":               `{} x`,
		"a member twice":              `{"clientToken":"a","clientToken":"b"}`,
		"an unknown member twice":     `{"foo":1,"foo":2}`,
		"a member twice, escaped":     `{"foo":1,"f\u006fo":2}`,
		"a member twice, deep inside": `{"foo":{"a":1,"a":2}}`,
		"invalid UTF-8":               "{\"foo\":\"\xff\"}",
		"an unpaired surrogate":       `{"clientToken":"\ud800"}`,
		"a number for the token":      `{"clientToken":5}`,
		"a token of 65 characters":    `{"clientToken":"` + strings.Repeat("a", 65) + `"}`,
		"another device":              `{"deviceId":"thing002"}`,
		"a number for the device":     `{"deviceId":1}`,
		"null for the device":         `{"deviceId":null}`,
		"another action":              `{"action":"put"}`,
		"another certificate":         `{"certId":"` + previousID + `"}`,
		"a number for the previous":   `{"previousCertificateId":7}`,
		"an object for the previous":  `{"previousCertificateId":{}}`,
		"too long":                    `{"foo":"` + strings.Repeat("a", protocol.MaxPayload) + `"}`,
	}
}

func TestDecodeRefusesMalformedBodies(t *testing.T) {
	for name, body := range malformedBodies() {
		if got, err := protocol.DecodeGet([]byte(body), atGet); !errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("get, %s: %+v, %v", name, got, err)
		}
		if got, err := protocol.DecodeAck([]byte(body), atAck); !errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("ack, %s: %+v, %v", name, got, err)
		}
	}
}

func TestDecodeGetRefuses(t *testing.T) {
	for name, body := range map[string]string{
		"an empty csr":                   `{"csr":""}`,
		"a null csr":                     `{"csr":null}`,
		"a number for the csr":           `{"csr":5}`,
		"an object for the csr":          `{"csr":{}}`,
		"an array for the csr":           `{"csr":["x"]}`,
		"the csr twice":                  `{"csr":"x","csr":"x"}`,
		"an ack's action":                `{"action":"ack","csr":"x"}`,
		"an array of parameters":         `{"acmpcaParameters":[]}`,
		"a string for the parameters":    `{"acmpcaParameters":"dev"}`,
		"a number for an alias":          `{"acmpcaParameters":{"awsiotCaAlias":1}}`,
		"a parameter twice":              `{"acmpcaParameters":{"awsiotCaAlias":"a","awsiotCaAlias":"b"}}`,
		"a text for the days":            `{"acmpcaParameters":{"certInfo":{"daysExpiry":"1"}}}`,
		"a fraction of a day":            `{"acmpcaParameters":{"certInfo":{"daysExpiry":1.5}}}`,
		"an array for the certificate's": `{"acmpcaParameters":{"certInfo":[]}}`,
	} {
		if got, err := protocol.DecodeGet([]byte(body), atGet); !errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestDecodeAck(t *testing.T) {
	for _, c := range []struct {
		name, body string
		want       protocol.AckRequest
		malformed  bool
	}{
		{"nothing", ``, protocol.AckRequest{}, false},
		{"an empty object", `{}`, protocol.AckRequest{}, false},
		{"a csr means nothing", `{"csr":5}`, protocol.AckRequest{}, false},
		{"the previous", `{"previousCertificateId":"p"}`, protocol.AckRequest{PreviousCertificateID: "p"}, false},
		{"a proof", `{"certificateId":"c","proof":"p"}`, protocol.AckRequest{CertificateID: "c", Proof: "p"}, false},
		{"a proof of nothing", `{"proof":"p"}`, protocol.AckRequest{}, true},
		{"a certificate without proof", `{"certificateId":"c"}`, protocol.AckRequest{}, true},
		{"an empty proof", `{"certificateId":"c","proof":""}`, protocol.AckRequest{}, true},
		{"a null proof", `{"certificateId":"c","proof":null}`, protocol.AckRequest{}, true},
		{"a number for the proof", `{"certificateId":"c","proof":1}`, protocol.AckRequest{}, true},
		{"a get's action", `{"action":"get"}`, protocol.AckRequest{}, true},
	} {
		got, err := protocol.DecodeAck([]byte(c.body), atAck)
		if errors.Is(err, protocol.ErrMalformed) != c.malformed {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.want, got); !c.malformed && diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// TestTokenSurvivesRefusal holds that even a refused request can be told which
// answer is its own.
func TestTokenSurvivesRefusal(t *testing.T) {
	get, err := protocol.DecodeGet([]byte(`{"csr":5,"clientToken":"t"}`), atGet)
	if err == nil || get.ClientToken != "t" {
		t.Errorf("get: token %q, %v", get.ClientToken, err)
	}
	ack, err := protocol.DecodeAck([]byte(`{"deviceId":"thing002","clientToken":"t"}`), atAck)
	if err == nil || ack.ClientToken != "t" {
		t.Errorf("ack: token %q, %v", ack.ClientToken, err)
	}
}

// TestUnknownCertificateIsNotCompared: where nobody knows which certificate
// speaks, a body's certId contradicts nothing, and decides nothing.
func TestUnknownCertificateIsNotCompared(t *testing.T) {
	at := protocol.Address{Device: device, Action: protocol.Get}
	if _, err := protocol.DecodeGet([]byte(`{"certId":"x"}`), at); err != nil {
		t.Error(err)
	}
}

func TestErrorsNeverRepeatValues(t *testing.T) {
	const secret = "SECRET"
	for _, body := range []string{
		`{"csr":{"SECRET":1}}`, `{"deviceId":"SECRET"}`, `{"certificateId":"SECRET"}`, `{"proof":"SECRET"}`,
		`SECRET`, `{"SECRET":1,"SECRET":2}`, `{"previousCertificateId":["SECRET"]}`,
		`{"clientToken":"` + strings.Repeat(secret, 20) + `"}`, `{"acmpcaParameters":"SECRET"}`,
	} {
		_, errGet := protocol.DecodeGet([]byte(body), atGet)
		_, errAck := protocol.DecodeAck([]byte(body), atAck)
		if errGet == nil && errAck == nil {
			t.Errorf("%s: taken", body)
		}
		for _, err := range []error{errGet, errAck} {
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %v", body, err)
			}
		}
	}
}

func TestDecodeRefusesDuplicates(t *testing.T) {
	var r protocol.Rejected
	for _, body := range []string{`{"message":"A","message":"B"}`, `[]`, ``, `{} {}`} {
		if err := protocol.Decode([]byte(body), &r); !errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("%q: %v", body, err)
		}
	}
	if err := protocol.Decode([]byte(`{"message":"A","new":1}`), &r); err != nil || r.Message != "A" {
		t.Errorf("a member of a later version: %v, %+v", err, r)
	}
}

func fuzzSeeds(f *testing.F) {
	f.Helper()
	for _, body := range malformedBodies() {
		if len(body) < 1000 {
			f.Add([]byte(body))
		}
	}
	for _, body := range []string{
		``, `{}`, `{"csr":"x"}`, `{"certificateId":"c","proof":"p","clientToken":"t"}`,
		`{"acmpcaParameters":{"certInfo":{"daysExpiry":1}}}`, `{"previousCertificateId":"` + previousID + `"}`,
	} {
		f.Add([]byte(body))
	}
}

func FuzzDecodeGet(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := protocol.DecodeGet(body, atGet)
		checkDecoded(t, r.ClientToken, err)
		if err == nil && r.CSR != nil && *r.CSR == "" {
			t.Error("an empty csr was taken")
		}
	})
}

func FuzzDecodeAck(f *testing.F) {
	fuzzSeeds(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := protocol.DecodeAck(body, atAck)
		checkDecoded(t, r.ClientToken, err)
		if err == nil && (r.Proof == "") != (r.CertificateID == "") {
			t.Error("half a proof was taken")
		}
	})
}

// checkDecoded holds what is true of any body: a refusal is of the one kind,
// and a token can always be echoed.
func checkDecoded(t *testing.T, token string, err error) {
	t.Helper()
	if err != nil && !errors.Is(err, protocol.ErrMalformed) {
		t.Errorf("an error of another kind: %v", err)
	}
	if len([]rune(token)) > protocol.MaxClientToken {
		t.Errorf("a token of %d characters", len([]rune(token)))
	}
	var echoed protocol.Rejected
	if err := protocol.Decode(protocol.Encode(protocol.Rejected{ClientToken: token}), &echoed); err != nil || echoed.ClientToken != token {
		t.Errorf("token %q comes back as %q: %v", token, echoed.ClientToken, err)
	}
}
