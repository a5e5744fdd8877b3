package vending_test

import (
	"slices"
	"testing"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/vending"
)

// TestPolicies: cases 37, 38, 42 and 43 of the original, and the order in
// which policies are looked for.
func TestPolicies(t *testing.T) {
	with := func(id certificate.ID, standing certificate.Standing, policies ...string) certificate.Holding {
		return certificate.Holding{Certificate: certificate.Certificate{ID: id, Standing: standing, Policies: policies}}
	}
	a := with("a", certificate.Active, "pa", "pa2")
	b := with("b", certificate.Active, "pb")
	bare := with("c", certificate.Active)
	gone := with("d", certificate.Inactive, "pd")
	inherit := vending.Policy{Mode: vending.PolicyInherit, Default: "default"}
	noDefault := vending.Policy{Mode: vending.PolicyInherit}
	two := vending.Policy{Mode: vending.PolicyInherit, Most: 2}
	many := with("e", certificate.Active, "p1", "p2", "p3")
	for _, test := range []struct {
		name        string
		policy      vending.Policy
		named, over certificate.ID
		held        []certificate.Holding
		want        []string // nil with fails: refused
		fails       bool
	}{
		{"default, whatever is named", vending.Policy{Mode: vending.PolicyDefault, Default: "default"}, "a", "b", []certificate.Holding{a, b}, []string{"default"}, false},
		{"none", vending.Policy{Mode: vending.PolicyNone}, "a", "b", []certificate.Holding{a, b}, nil, false},
		{"exactly those of the named one", inherit, "a", "b", []certificate.Holding{a, b}, []string{"pa", "pa2"}, false},
		{"the caller's where none is named", inherit, "", "b", []certificate.Holding{a, b}, []string{"pb"}, false},
		{"the only active one's where the caller is unknown", inherit, "", "", []certificate.Holding{gone, b}, []string{"pb"}, false},
		{"the default where two are active and the caller is unknown", inherit, "", "", []certificate.Holding{a, b}, []string{"default"}, false},
		{"the default where the source has none", inherit, "", "c", []certificate.Holding{a, bare}, []string{"default"}, false},
		{"refused where there is no default either", noDefault, "", "c", []certificate.Holding{a, bare}, nil, true},
		{"only what may be inherited", vending.Policy{Mode: vending.PolicyInherit, Allow: []string{"pa2", "px"}}, "a", "", []certificate.Holding{a, b}, []string{"pa2"}, false},
		{"refused where nothing may be inherited", vending.Policy{Mode: vending.PolicyInherit, Allow: []string{"px"}}, "a", "", []certificate.Holding{a, b}, nil, true},
		{"as many as a certificate can have", two, "", "a", []certificate.Holding{a, many}, []string{"pa", "pa2"}, false},
		{"refused where they are more than a certificate can have", two, "", "e", []certificate.Holding{a, many}, nil, true},
		{"but not where fewer may be inherited", vending.Policy{Mode: vending.PolicyInherit, Most: 2, Allow: []string{"p3"}}, "", "e", []certificate.Holding{a, many}, []string{"p3"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := test.policy.For(test.named, test.over, test.held)
			if (err != nil) != test.fails || !slices.Equal(got, test.want) {
				t.Errorf("got %v, %v; want %v", got, err, test.want)
			}
		})
	}
}

func TestConfigurationsThatCannotWork(t *testing.T) {
	for name, breaks := range map[string]func(*vending.Config){
		"no profile":         func(c *vending.Config) { c.Profiles = nil },
		"no validity":        func(c *vending.Config) { c.Profiles[0].Validity = 0 },
		"unknown naming":     func(c *vending.Config) { c.Profiles[0].Naming.Mode = "guess" },
		"unknown policy":     func(c *vending.Config) { c.Profiles[0].Policy.Mode = "" },
		"no default policy":  func(c *vending.Config) { c.Profiles[0].Policy = vending.Policy{Mode: vending.PolicyDefault} },
		"unknown binding":    func(c *vending.Config) { c.Binding = "" },
		"no new keys":        func(c *vending.Config) { c.NewKeys = 0 },
		"unknown retirement": func(c *vending.Config) { c.Profiles[0].Terms.Retire = "some" },
		"unknown previous":   func(c *vending.Config) { c.Profiles[0].Terms.Previous = "burn" },
	} {
		c := config()
		breaks(&c)
		if _, err := vending.New(c, vending.Ports{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := vending.New(config(), vending.Ports{}); err != nil {
		t.Errorf("a good one is refused: %v", err)
	}
}
