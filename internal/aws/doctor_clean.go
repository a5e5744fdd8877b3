package aws

import (
	"context"
	"fmt"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

// Clean takes away everything that the trial has made, and that was made for its
// thing. It returns how much that was, and what is left and why. Repeatable. It
// goes on where something fails; ctx bounds it.
func (t *Trial) Clean(ctx context.Context) (gone int, left []string) {
	step := func(what string, do func() error) {
		switch err := t.insist(ctx, do); {
		case err == nil:
			gone++
		case !isNotFound(err):
			left = append(left, fmt.Sprintf("%s: %s", what, said(err)))
		}
	}
	seen, err := t.doctor.inventory().attached(ctx, registry.DeviceID(t.Thing))
	if err != nil {
		left = append(left, said(err))
	}
	if t.doubt {
		left = append(left, "a certificate without thing and policy, which AWS may have made and did not tell of")
	}
	for _, id := range slices.Concat(t.made, seen.certificates) {
		step("certificate "+string(id), func() error { return t.deleteCertificate(ctx, id) })
	}
	step("thing "+t.Thing, func() error { return t.deleteThing(ctx) })
	step("policy "+t.Thing, func() error { // last: it takes AWS the longest to let it go
		_, err := t.iot.DeletePolicy(ctx, &iot.DeletePolicyInput{PolicyName: &t.Thing})
		return err
	})
	return gone, left
}

// insist tries again what AWS says is in the way of something that goes away by
// itself: it carries out a detachment some time after it was asked for.
func (t *Trial) insist(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, t.persist)
	defer cancel()
	for {
		err := do()
		code := codeOf(err)
		if code != deleteConflict && code != invalidRequest && code != "CertificateStateException" {
			return err
		}
		if sleep(ctx, t.pause); ctx.Err() != nil {
			return err
		}
	}
}

func (t *Trial) deleteCertificate(ctx context.Context, id certificate.ID) error {
	target, name := t.doctor.names.certificate(id), new(string(id))
	_, err := t.iot.UpdateCertificate(ctx, &iot.UpdateCertificateInput{CertificateId: name, NewStatus: types.CertificateStatusInactive})
	if err != nil {
		return err
	}
	policies, err := t.doctor.inventory().policies(ctx, id)
	if err != nil {
		return err
	}
	for _, policy := range policies {
		_, err := t.iot.DetachPolicy(ctx, &iot.DetachPolicyInput{PolicyName: &policy, Target: &target})
		if unlessGone(err) != nil {
			return err
		}
	}
	_, err = t.iot.DetachThingPrincipal(ctx, &iot.DetachThingPrincipalInput{ThingName: &t.Thing, Principal: &target})
	if unlessGone(err) != nil {
		return err
	}
	_, err = t.iot.DeleteCertificate(ctx, &iot.DeleteCertificateInput{CertificateId: name})
	return err
}

func (t *Trial) deleteThing(ctx context.Context) error {
	group := t.doctor.config.Scope.Group
	_, err := t.iot.RemoveThingFromThingGroup(ctx, &iot.RemoveThingFromThingGroupInput{ThingName: &t.Thing, ThingGroupName: &group})
	if unlessGone(err) != nil {
		return err
	}
	if _, err := t.iot.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: &t.Thing}); err != nil {
		return err // AWS says of a thing that is not there that it was deleted
	}
	_, err = t.iot.DeleteThing(ctx, &iot.DeleteThingInput{ThingName: &t.Thing})
	return err
}
