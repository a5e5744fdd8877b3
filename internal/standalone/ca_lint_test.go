package standalone

import (
	"crypto/x509"
	"testing"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

func TestHierarchyKeepsToRFC5280(t *testing.T) {
	c := newClock()
	_, ca := madeCA(t, caConfig(c))
	leaf, err := issueTo(t, ca, deviceKey(t), c.now()).X509()
	if err != nil {
		t.Fatal(err)
	}
	made, ok := ca.served.Load().server.(*madeServer)
	if !ok {
		t.Fatalf("a %T", ca.served.Load().server)
	}
	rules, err := lint.GlobalRegistry().Filter(lint.FilterOptions{IncludeSources: lint.SourceList{lint.RFC5280}})
	if err != nil {
		t.Fatal(err)
	}
	for name, one := range map[string]*x509.Certificate{
		"root": ca.root, "issuing": ca.issuer, "device": leaf, "server CA": made.parent, "server": serverLeaf(t, ca),
	} {
		parsed, err := zx509.ParseCertificate(one.Raw)
		if err != nil {
			t.Fatal(err)
		}
		results := zlint.LintCertificateEx(parsed, rules).Results
		if len(results) < 50 {
			t.Fatalf("only %d lints ran", len(results))
		}
		for rule, result := range results {
			if result.Status >= lint.Warn {
				t.Errorf("%s: %s: %s %s", name, rule, result.Status, result.Details)
			}
		}
	}
}
