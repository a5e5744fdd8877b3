package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/rotation"
)

// Retire implements certificate.Inventory. The store decides, in the
// transaction in which it asks for leave, and records; AWS is told then. If
// that fails, the caller repeats it, or Settle does. Of other things that hold
// the certificate the store hears first.
func (i *Inventory) Retire(ctx context.Context, r certificate.Removal) error {
	if i.inDoubt(r.Device) {
		if err := i.learn(ctx, r.Device); err != nil {
			return err
		}
	}
	if err := i.lookBefore(ctx, r); err != nil {
		return err
	}
	if err := i.successorWorks(ctx, r); err != nil {
		return err
	}
	strangers, err := i.learnHolders(ctx, r.Device, r.Certificate)
	switch {
	case err != nil:
		return err
	case len(strangers) > 0:
		return keptFor(strangers[0])
	}
	if err := i.formerHoldersCame(ctx, r); err != nil {
		return err
	}
	marked, err := i.marks.Has(ctx, r.Certificate)
	if err != nil {
		return err
	}
	if marked {
		err = i.mayBeTold(ctx, r.Device, r.Certificate)
	} else {
		err = i.staysOff(ctx, r)
	}
	if err != nil {
		return err
	}
	end, err := i.begin(ctx, r.Device, r.Certificate)
	if err != nil {
		return err
	}
	if err := i.rows.Retire(ctx, r); err != nil {
		// What it was refused for comes first; the mark alone does no harm. One
		// that was there before is of something that AWS has not heard yet.
		_ = end(!marked)
		return err
	}
	if err := i.carryOut(ctx, r.Device, r.Certificate); err != nil {
		return errors.Join(fmt.Errorf("retire certificate %s of device %s: it is recorded, and AWS is told later: %w",
			r.Certificate, r.Device, err), end(false))
	}
	return end(true)
}

// justSeen is how long a sighting shows by itself that AWS lets a certificate
// connect: it closes the connections of one that is made INACTIVE.
const justSeen = 5 * time.Minute

// successorWorks keeps a certificate if AWS does not let the one connect that the
// device was seen on last: somebody else may have made that INACTIVE since, or
// detached it or its policies, and the store does not hear of it.
func (i *Inventory) successorWorks(ctx context.Context, r certificate.Removal) error {
	held, err := i.rows.Held(ctx, r.Device)
	if err != nil {
		return err
	}
	latest, seen := certificate.Latest(held)
	if !seen || latest.ID == r.Certificate || i.now().Sub(latest.LastSeen).Abs() < justSeen {
		return nil // what the rule makes of it
	}
	out, err := i.iot.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: new(string(latest.ID))})
	switch {
	case isNotFound(err):
		return rotation.Kept{Why: fmt.Sprintf("AWS IoT does not have certificate %s any more, which the device was seen on last", latest.ID)}
	case err != nil:
		return fmt.Errorf("describe certificate %s: %w", latest.ID, err)
	case out.CertificateDescription.Status != types.CertificateStatusActive:
		return rotation.Kept{Why: fmt.Sprintf("AWS IoT has certificate %s, which the device was seen on last, as %s: make it ACTIVE there, or leave both",
			latest.ID, out.CertificateDescription.Status)}
	}
	things, err := i.thingsOf(ctx, latest.ID)
	if err == nil && !slices.Contains(things, string(r.Device)) {
		return rotation.Kept{Why: fmt.Sprintf("AWS IoT does not have certificate %s, which the device was seen on last, attached to its thing: attach it there, or leave both",
			latest.ID)}
	}
	if err != nil {
		return err
	}
	return i.mayDoSomething(ctx, r.Device, latest.ID)
}

// mayDoSomething returns a rotation.Kept if somebody has taken from a certificate
// all the policies that it was registered with: what is left of it does not connect.
// One that never had any lives by those of its thing's groups.
func (i *Inventory) mayDoSomething(ctx context.Context, device registry.DeviceID, id certificate.ID) error {
	policies, err := i.policies(ctx, id)
	if err != nil || len(policies) > 0 {
		return err
	}
	if policies, err = i.rows.RegisteredWith(ctx, device, id); err != nil || len(policies) == 0 {
		return err
	}
	return rotation.Kept{Why: fmt.Sprintf("AWS IoT has no policy attached to certificate %s, which the device was seen on last and which had %s: attach one there, or leave both",
		id, strings.Join(policies, ", "))}
}

// staysOff keeps a certificate that is to be deleted, and that somebody else has
// made ACTIVE at AWS since it was made INACTIVE: a device may work with it, and is
// not heard here.
func (i *Inventory) staysOff(ctx context.Context, r certificate.Removal) error {
	if r.Mode != certificate.Delete {
		return nil
	}
	at, err := i.rows.Place(ctx, r.Device, r.Certificate)
	if err != nil || !at.Held || at.Standing != certificate.Inactive {
		return err
	}
	out, err := i.iot.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: new(string(r.Certificate))})
	switch {
	case isNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("describe certificate %s: %w", r.Certificate, err)
	case out.CertificateDescription.Status == types.CertificateStatusActive:
		return rotation.Kept{Why: fmt.Sprintf("somebody has made it ACTIVE again at AWS IoT: `rotation undo %s`, or make it INACTIVE there", r.Device)}
	}
	return nil
}

// aloneFor is how long AWS's word that a thing has a certificate for itself spares
// asking, as between a get and its ack: who detaches it may attach it to another.
const aloneFor = time.Minute

// learnHolders takes into the store who else holds a certificate at AWS: what
// another thing works with is not to be deactivated, and what another thing has
// is not to be deleted. It returns the things that it could not take in: one from
// which the certificate was taken here, and to which AWS has it attached still,
// or somebody again.
func (i *Inventory) learnHolders(ctx context.Context, device registry.DeviceID, id certificate.ID) (strangers []string, err error) {
	at, err := i.rows.Place(ctx, device, id)
	if err != nil || !at.Held || at.Standing != certificate.Active && at.Standing != certificate.Inactive {
		return nil, err
	}
	if seen, known := i.views.get(device); known && slices.Contains(seen.alone, id) && i.now().Sub(seen.read).Abs() < aloneFor {
		return nil, nil
	}
	things, err := i.thingsOf(ctx, id)
	for _, thing := range things {
		other, err := registry.ParseDeviceID(thing)
		if err != nil || other == device {
			continue
		}
		if err := i.adopt(ctx, other, id); err != nil {
			return nil, err
		}
		at, err := i.rows.Place(ctx, other, id)
		if err != nil {
			return nil, err
		}
		if !at.Held {
			strangers = append(strangers, thing)
		}
	}
	return strangers, err
}

// thingsOf lists the things that a certificate is attached to.
func (i *Inventory) thingsOf(ctx context.Context, id certificate.ID) ([]string, error) {
	var all []string
	pages := iot.NewListPrincipalThingsPaginator(i.iot, &iot.ListPrincipalThingsInput{Principal: new(i.names.certificate(id))})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if isNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list the things of certificate %s: %w", id, err)
		}
		all = append(all, page.Things...)
	}
	return all, nil
}

// carryOut does at AWS what the store has recorded for a device's certificate.
func (i *Inventory) carryOut(ctx context.Context, device registry.DeviceID, id certificate.ID) error {
	at, err := i.rows.Place(ctx, device, id)
	switch {
	case err != nil:
		return err
	case at.Standing == certificate.Deleted:
		return i.remove(ctx, id)
	case !at.Held:
		return i.detach(ctx, string(device), id)
	case at.Standing == certificate.Inactive:
		return i.deactivate(ctx, id)
	}
	return nil
}

// detach is idempotent. AWS carries it out some seconds later.
func (i *Inventory) detach(ctx context.Context, thing string, id certificate.ID) error {
	_, err := i.iot.DetachThingPrincipal(ctx, &iot.DetachThingPrincipalInput{
		ThingName: &thing, Principal: new(i.names.certificate(id)),
	})
	if err = unlessGone(err); err != nil {
		return fmt.Errorf("detach certificate %s from thing %s: %w", id, thing, err)
	}
	return nil
}

// How often, and after which pause at first, the deletion of a certificate is
// tried whose detachment is not through yet. AWS speaks of several seconds.
const (
	deletions     = 6
	deletionPause = 250 * time.Millisecond
)

// remove deletes a certificate: INACTIVE, detached from things and policies,
// then deleted. Idempotent.
func (i *Inventory) remove(ctx context.Context, id certificate.ID) error {
	i.removed.put(id, struct{}{})
	err := i.setStatus(ctx, id, types.CertificateStatusInactive)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	things, err := i.thingsOf(ctx, id)
	if err != nil {
		return err
	}
	for _, thing := range things {
		if err := i.detach(ctx, thing, id); err != nil {
			return err
		}
	}
	if err := i.detachPolicies(ctx, id); err != nil {
		return err
	}
	return i.deleteDetached(ctx, id)
}

func (i *Inventory) detachPolicies(ctx context.Context, id certificate.ID) error {
	policies, err := i.policies(ctx, id)
	if err != nil {
		return unlessGone(err)
	}
	for _, policy := range policies {
		_, err := i.iot.DetachPolicy(ctx, &iot.DetachPolicyInput{
			PolicyName: &policy, Target: new(i.names.certificate(id)),
		})
		if err = unlessGone(err); err != nil {
			return fmt.Errorf("detach policy %s from certificate %s: %w", policy, id, err)
		}
	}
	return nil
}

func (i *Inventory) deleteDetached(ctx context.Context, id certificate.ID) error {
	pause := deletionPause
	for try := 1; ; try++ {
		_, err := i.iot.DeleteCertificate(ctx, &iot.DeleteCertificateInput{CertificateId: new(string(id)), ForceDelete: true})
		switch {
		case unlessGone(err) == nil:
			return nil
		case codeOf(err) != deleteConflict || try == deletions:
			return fmt.Errorf("delete certificate %s: %w", id, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("delete certificate %s: %w", id, ctx.Err())
		case <-time.After(pause):
		}
		pause *= 2
	}
}

// unlessGone takes what is not there for done.
func unlessGone(err error) error {
	if isNotFound(err) {
		return nil
	}
	return err
}
