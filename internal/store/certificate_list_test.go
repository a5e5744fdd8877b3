package store_test

import (
	"strings"
	"testing"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
)

// TestCertificatesAreFoundByIndex holds every filter against the way SQLite
// goes: from an index, or on from the id that the page before ended with, and
// never through a whole table from its beginning.
func TestCertificatesAreFoundByIndex(t *testing.T) {
	w := open(t)
	soon, site := start.AddDate(0, 1, 0), map[string]string{"site": "north"}
	for name, c := range map[string]struct {
		query certificate.Query
		index string
	}{
		"all":                {certificate.Query{}, "sqlite_autoindex_certificates_1 (id>?)"},
		"device":             {certificate.Query{Device: "d1"}, "SEARCH h USING PRIMARY KEY (device=?"},
		"key":                {certificate.Query{Key: "k"}, "certificates_key (key=? AND id>?)"},
		"active":             {certificate.Query{Standing: certificate.Active}, "sqlite_autoindex_certificates_1 (id>?)"},
		"inactive":           {certificate.Query{Standing: certificate.Inactive}, "certificates_standing (standing=? AND id>?)"},
		"expiring":           {certificate.Query{ExpiresBy: soon}, "certificates_not_after (not_after<?)"},
		"issuer":             {certificate.Query{Issuer: "CN=a"}, "sqlite_autoindex_certificates_1 (id>?)"},
		"attribute":          {certificate.Query{Attributes: site}, "attributes_value (name=? AND value=?)"},
		"expiring, device":   {certificate.Query{ExpiresBy: soon, Device: "d1"}, "SEARCH h USING PRIMARY KEY (device=?"},
		"expiring, at site":  {certificate.Query{ExpiresBy: soon, Attributes: site}, "certificates_not_after (not_after<?)"},
		"inactive, expiring": {certificate.Query{ExpiresBy: soon, Standing: certificate.Inactive}, "certificates_not_after (not_after<?)"},
		"expiring, later":    {certificate.Query{ExpiresBy: soon, After: "5"}, "certificates_not_after ((not_after,id)>(?,?) AND not_after<?)"},
		"key, at site":       {certificate.Query{Key: "k", Attributes: site}, "certificates_key (key=? AND id>?)"},
		"a later page":       {certificate.Query{After: "5", Issuer: "CN=a", Standing: certificate.Active}, "sqlite_autoindex_certificates_1 (id>?)"},
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := store.Plan(w.ctx, w.Store, c.query)
			w.ok(err)
			text := strings.Join(plan, "\n")
			if !strings.Contains(text, c.index) || strings.Contains(text, "SCAN") {
				t.Errorf("not by %s:\n%s", c.index, text)
			}
		})
	}
}
