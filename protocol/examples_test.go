package protocol_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/certvendor/certvendor/protocol"
)

// TestExamplesBelongTogether holds what the page shows against itself: whoever
// implements a device from it can try his code on these values.
func TestExamplesBelongTogether(t *testing.T) {
	leaf := certificates(t, certificatePEM)[0]
	chain := certificates(t, chainPEM)
	sum := sha256.Sum256(leaf.Raw)
	if got := hex.EncodeToString(sum[:]); got != certificateID {
		t.Errorf("the certificate's id is %s, the page says %s", got, certificateID)
	}
	if got := leaf.NotAfter.UTC().Format(time.RFC3339); got != notAfter {
		t.Errorf("the certificate ends at %s, the page says %s", got, notAfter)
	}
	above := leaf
	for _, issuer := range chain {
		if err := above.CheckSignatureFrom(issuer); err != nil {
			t.Errorf("%s was not signed by %s: %v", above.Subject, issuer.Subject, err)
		}
		above = issuer
	}
	if len(chain) != 2 {
		t.Errorf("the chain has %d certificates, not 2", len(chain))
	}
	block, _ := pem.Decode([]byte(csrPEM))
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if string(csr.RawSubjectPublicKeyInfo) != string(leaf.RawSubjectPublicKeyInfo) {
		t.Error("the certificate is not for the key of the request")
	}
	if err := protocol.VerifyProof(leaf.PublicKey, device, certificateID, nonce, proof); err != nil {
		t.Error(err)
	}
}

func certificates(t *testing.T, text string) []*x509.Certificate {
	t.Helper()
	var all []*x509.Certificate
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

var reasonRow = regexp.MustCompile("(?m)^\\| (?:`` ?(.+?) ?``|`([^`]+)`) \\| .+ \\| .+ \\|$")

// TestReasonsTable holds the page's table against the list of reasons: one row
// each, and no other.
func TestReasonsTable(t *testing.T) {
	_, section, ok := strings.Cut(pageText(t), "\n## Reasons\n")
	section, _, ended := strings.Cut(section, "\n## ")
	if !ok || !ended {
		t.Fatal("the page has no section Reasons")
	}
	var rows []protocol.Reason
	for _, found := range reasonRow.FindAllStringSubmatch(section, -1) {
		rows = append(rows, protocol.Reason(found[1]+found[2]))
	}
	want := protocol.Reasons()
	slices.Sort(rows)
	slices.Sort(want)
	if !slices.Equal(rows, want) {
		t.Errorf("the table has\n%q\nand the code\n%q", rows, want)
	}
}

// TestReasonsAreStable spells every reason out: firmware acts on these texts.
func TestReasonsAreStable(t *testing.T) {
	want := []protocol.Reason{
		"DEVICE_NOT_WHITELISTED", "UNABLE_TO_CHECK_WHITELIST", "CERTIFICATE_NOT_FOUND", "MISSING_CERTIFICATE_ID",
		"UNABLE_TO_ACTIVATE_CERTIFICATE", "UNABLE_TO_PRESIGN_URL", "UNABLE_TO_GET_CA_CERTIFICATE",
		"UNABLE_TO_FETCH_CA_KEY", "UNABLE_TO_ISSUE_CERTIFICATE", "UNABLE_TO_REGISTER_CERTIFICATE",
		"UNABLE_TO_ATTACH_CERTIFICATE", "UNABLE_TO_ATTACH_POLICY", "UNABLE_TO_PUBLISH_RESPONSE",
		"Invalid `awsiotCaAlias`.", "Invalid `acmpcaCaAlias`.",
		"Either `awsiotCaAlias` or `awsiotCaId` must be provided",
		"Either `acmpcaCaAlias` or `acmpcaCaArn` must be provided.",
		"MALFORMED_REQUEST", "CSR_REJECTED", "CALLER_NOT_BOUND", "PREVIOUS_CERTIFICATE_NOT_HELD", "CA_NOT_ALLOWED",
		"TOO_MANY_REQUESTS", "NO_OPEN_ROTATION", "ACK_NOT_PROVEN", "TRY_AGAIN_LATER", "INTERNAL",
	}
	if got := protocol.Reasons(); !slices.Equal(got, want) {
		t.Errorf("got\n%q\nwant\n%q", got, want)
	}
}
