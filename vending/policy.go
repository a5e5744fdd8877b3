package vending

import (
	"errors"
	"fmt"
	"slices"

	"github.com/certvendor/certvendor/certificate"
)

// PolicyMode says where a new certificate's policies come from.
type PolicyMode string

// The modes.
const (
	PolicyInherit PolicyMode = "inherit" // from the certificate that is replaced
	PolicyDefault PolicyMode = "default" // the configured one
	PolicyNone    PolicyMode = "none"    // no policy at all
)

// Policy is the part of a profile that decides the policies of a new
// certificate. Their names mean something to the world only.
type Policy struct {
	Mode    PolicyMode
	Default string
	// Allow names the only policies that may be inherited; empty allows all.
	Allow []string
	// Most is how many policies the world attaches to a certificate; 0: any
	// number.
	Most int
}

// Validate reports what could not work.
func (p Policy) Validate() error {
	switch p.Mode {
	case PolicyInherit, PolicyDefault, PolicyNone:
	default:
		return fmt.Errorf("policy.mode: %q is none of inherit, default, none", p.Mode)
	}
	if p.Mode == PolicyDefault && p.Default == "" {
		return errors.New("policy.default: must be set with policy.mode default")
	}
	return nil
}

// For returns the policies of a certificate that replaces another: those of
// the one the device named, else of the one it speaks over, else of its only
// ACTIVE one, else the default. It fails before anything is issued.
func (p Policy) For(named, over certificate.ID, held []certificate.Holding) ([]string, error) {
	switch p.Mode {
	case PolicyNone:
		return nil, nil
	case PolicyDefault:
		return []string{p.Default}, nil
	}
	if source, ok := inheritFrom(named, over, held); ok {
		if p.Exceeded(source.Policies) {
			return nil, fmt.Errorf("certificate %s has %d policies to inherit, and a certificate can have %d: detach some, or name those that count in policy.inherit_allow",
				short(source.ID), len(p.allowed(source.Policies)), p.Most)
		}
		if allowed := p.allowed(source.Policies); len(allowed) > 0 {
			return allowed, nil
		}
	}
	if p.Default == "" {
		return nil, errors.New("no policy to inherit and no policy.default")
	}
	return []string{p.Default}, nil
}

// Exceeded reports whether a certificate that inherits these policies would have
// more than the world attaches to one.
func (p Policy) Exceeded(policies []string) bool {
	return p.Mode == PolicyInherit && p.Most > 0 && len(p.allowed(policies)) > p.Most
}

func (p Policy) allowed(names []string) []string {
	if len(p.Allow) == 0 {
		return names
	}
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !slices.Contains(p.Allow, n) })
}

func inheritFrom(named, over certificate.ID, held []certificate.Holding) (certificate.Holding, bool) {
	for _, id := range []certificate.ID{named, over} {
		if h, ok := certificate.Find(held, id); ok {
			return h, true
		}
	}
	active := activeOf(held)
	if len(active) != 1 {
		return certificate.Holding{}, false
	}
	return certificate.Find(held, active[0])
}

func activeOf(held []certificate.Holding) []certificate.ID {
	var ids []certificate.ID
	for _, h := range held {
		if h.Standing == certificate.Active {
			ids = append(ids, h.ID)
		}
	}
	return ids
}
