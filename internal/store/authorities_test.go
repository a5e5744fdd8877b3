package store

import (
	"testing"
	"time"

	"github.com/certvendor/certvendor/certificate"
)

// Whose a certificate is, and whether it is lost, where CAs share a name.
func TestIssuersOfOneName(t *testing.T) {
	retired := time.Now()
	der := func(text string) [][]byte { return [][]byte{[]byte(text)} }
	ca := func(text, subject, line string, at time.Time) Authority {
		return Authority{ID: certificate.IDOf([]byte(text)), Subject: subject, Line: line, Chain: der(text), Retired: at}
	}
	all := []Authority{
		ca("first", "CN=a", "1", retired), ca("again", "CN=a", "1", time.Time{}), // the same key, made anew
		ca("bytes", "CN=a", "2", retired), // the same name in other octets
		ca("gone", "CN=b", "3", retired), ca("new", "CN=c", "4", time.Time{}),
	}
	for name, c := range map[string]struct {
		issuer string
		chain  [][]byte
		of     string // empty: nobody's
		lost   bool
	}{
		"of the one that is trusted":       {"CN=a", der("again"), "again", false},
		"of the one made before it":        {"CN=a", der("first"), "again", false},
		"of the one with other octets":     {"CN=a", der("bytes"), "bytes", true},
		"without a chain":                  {"CN=a", nil, "again", false},
		"with somebody else's chain":       {"CN=a", der("x"), "again", false},
		"of one that is gone":              {"CN=b", der("gone"), "gone", true},
		"of one that is gone, not chained": {"CN=b", nil, "gone", true},
		"of the new one":                   {"CN=c", der("new"), "new", false},
		"foreign":                          {"CN=x", der("x"), "", false},
	} {
		t.Run(name, func(t *testing.T) {
			var want certificate.ID
			if c.of != "" {
				want = certificate.IDOf([]byte(c.of))
			}
			if got := issuerOf(all, c.issuer, c.chain); got != want {
				t.Errorf("issued by %.12s, want %.12s", got, want)
			}
			if got := lostWith(all, c.issuer, c.chain); got != c.lost {
				t.Errorf("lost: %v", got)
			}
		})
	}
}
