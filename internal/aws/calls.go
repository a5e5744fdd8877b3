package aws

import (
	"maps"
	"slices"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/certificate"
)

// callsOfRotation returns the calls, by API, of one rotation of a thing that was
// never seen before and whose certificate has one policy: the most that any
// thing with one policy takes. What the issuer calls is not among them.
func callsOfRotation(how Registration, previous certificate.Mode) map[string]int {
	register := "RegisterCertificate"
	if how == WithoutCA {
		register = "RegisterCertificateWithoutCA"
	}
	calls := map[string]int{
		"DescribeThing": 1, "ListThingPrincipalsV2": 1, "DescribeCertificate": 1, "ListAttachedPolicies": 1,
		register: 1, "AttachPolicy": 1, "AttachThingPrincipal": 1, "UpdateThing": 1,
		"AddThingToThingGroup": 1, "RemoveThingFromThingGroup": 1,
	}
	switch previous {
	case certificate.Deactivate:
		calls["ListPrincipalThings"], calls["UpdateCertificate"] = 1, 1
	case certificate.Delete:
		calls["ListPrincipalThings"], calls["UpdateCertificate"] = 3, 2
		calls["ListAttachedPolicies"], calls["DescribeThing"], calls["DescribeCertificate"] = 2, 2, 2
		calls["DetachThingPrincipal"], calls["DetachPolicy"], calls["DeleteCertificate"] = 1, 1, 1
	}
	return calls
}

// Steps returns what each API does for a rotation, and how many devices a minute
// its quota allows; issuing names the APIs that the issuer calls once each.
func (w *World) Steps(previous certificate.Mode, issuing ...string) []campaign.Step {
	calls := callsOfRotation(w.config.Registration, previous)
	for _, api := range issuing {
		calls[api]++
	}
	var steps []campaign.Step
	for _, api := range slices.Sorted(maps.Keys(calls)) {
		perMinute := w.config.Clients.Quotas.allows(api) * time.Minute.Seconds() / float64(calls[api])
		steps = append(steps, campaign.Step{What: api, Calls: calls[api], PerMinute: perMinute, Price: w.config.Prices[api]})
	}
	return steps
}

// allows returns how many calls a second to an API are let through while AWS
// does not throttle.
func (q *Quotas) allows(api string) float64 { return q.bucket(api).full }
