package aws

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
)

// takeBackTime bounds how long a request that failed waits until what it has
// registered is harmless.
const takeBackTime = 3 * time.Second

// Register implements certificate.Inventory: registered, policies, attached,
// and only then in the store. A certificate without a thing and policies can do
// nothing, so that it may be ACTIVE from the start. If a step fails, it is made
// INACTIVE at once and taken away by Settle, unless the next request goes on
// with it; but for one that others work with.
func (i *Inventory) Register(ctx context.Context, device registry.DeviceID, c certificate.Certificate) error {
	at, err := i.rows.Place(ctx, device, c.ID)
	if err != nil {
		return err
	}
	switch {
	case at.Standing == certificate.Revoked:
		return i.rows.Register(ctx, device, c) // which refuses it, or does nothing
	case at.Held && c.Kind == certificate.Birth:
		return i.rows.Register(ctx, device, c) // which only notes that it is one
	case at.Held, at.Holders > 0 && at.Standing != certificate.Deleted:
		c.Standing = at.Standing
	case c.Standing == "":
		c.Standing = certificate.Active
	}
	there, others, err := i.others(ctx, c, at)
	switch {
	case err != nil:
		return refuse(nil, err)
	case others:
		return i.takeIn(ctx, device, c, there)
	}
	end, err := i.begin(ctx, device, c.ID)
	if err != nil {
		return err
	}
	if err := i.enter(ctx, device, c); err != nil {
		if at.Holders == 0 || at.Begun { // otherwise somebody is at work with it
			i.takeBack(ctx, c.ID)
		}
		return errors.Join(err, end(false))
	}
	if err := i.rows.Register(ctx, device, c); err != nil {
		return errors.Join(err, end(false))
	}
	// One that the commit of its rotation writes stays marked until then.
	at, err = i.rows.Place(ctx, device, c.ID)
	return errors.Join(err, end(err == nil && at.Held && !at.Begun))
}

// others reports whether somebody else has registered a certificate at AWS that a
// person takes in with its device, which may be at work with it, and returns it as
// AWS has it. What the store knows besides, and AWS has not ACTIVE, is no such one.
func (i *Inventory) others(ctx context.Context, c certificate.Certificate, at store.Place) (certificate.Certificate, bool, error) {
	if at.Begun || at.Holders > 0 || c.Kind == certificate.Rotated || c.Kind == certificate.First {
		return c, false, nil
	}
	if marked, err := i.marks.Has(ctx, c.ID); err != nil || marked {
		return c, false, err // we have begun to enter it ourselves
	}
	there, err := i.describe(ctx, c.ID)
	switch {
	case isNotFound(err):
		return c, false, nil
	case err != nil:
		return c, false, err
	case there.Standing == certificate.Revoked:
		return c, false, fmt.Errorf("certificate %s at AWS: %w", c.ID, certificate.ErrRevoked)
	}
	return there, there.Standing == certificate.Active || !at.Known, nil
}

// takeIn enters a certificate with its device that AWS has already. It is not
// marked, and a step that fails leaves it as it was: nothing of it is ours to take
// away. One that is ACTIVE stays so, and one with policies keeps them.
func (i *Inventory) takeIn(ctx context.Context, device registry.DeviceID, c, there certificate.Certificate) error {
	activates := c.Standing == certificate.Active && there.Standing != certificate.Active
	if len(there.Policies) > 0 {
		c.Policies = there.Policies
	} else if err := i.attachPolicies(ctx, c); err != nil {
		return err
	}
	if err := i.attach(ctx, device, c.ID); err != nil {
		return err
	}
	if !activates {
		c.Standing = there.Standing
		return i.rows.Register(ctx, device, c)
	}
	err := refuse(nil, i.setStatus(ctx, c.ID, types.CertificateStatusActive))
	if err == nil {
		err = i.rows.Register(ctx, device, c)
	}
	if err != nil {
		i.takeBack(ctx, c.ID) // to INACTIVE, which it was
	}
	return err
}

// enter makes AWS know a certificate, with policies and thing. Idempotent.
func (i *Inventory) enter(ctx context.Context, device registry.DeviceID, c certificate.Certificate) error {
	i.removed.forget(c.ID)
	known, err := i.register(ctx, c)
	if err == nil && known {
		err = i.setStatus(ctx, c.ID, statusOf(c.Standing))
	}
	if err != nil {
		return refuse(nil, err)
	}
	if err := i.attachPolicies(ctx, c); err != nil {
		return err
	}
	return i.attach(ctx, device, c.ID)
}

// attachPolicies is idempotent.
func (i *Inventory) attachPolicies(ctx context.Context, c certificate.Certificate) error {
	for _, policy := range c.Policies {
		_, err := i.iot.AttachPolicy(ctx, &iot.AttachPolicyInput{
			PolicyName: &policy, Target: new(i.names.certificate(c.ID)),
		})
		if err != nil {
			return refuse(certificate.ErrNoPolicy, fmt.Errorf("attach policy %s to certificate %s: %w", policy, c.ID, err))
		}
	}
	return nil
}

// register enters a certificate with AWS IoT, the leaf alone, and reports
// whether it was there already, in whichever state.
func (i *Inventory) register(ctx context.Context, c certificate.Certificate) (known bool, err error) {
	leaf, status := c.PEM(), statusOf(c.Standing)
	if i.how == WithoutCA {
		_, err = i.iot.RegisterCertificateWithoutCA(ctx, &iot.RegisterCertificateWithoutCAInput{
			CertificatePem: &leaf, Status: status,
		})
	} else {
		in := &iot.RegisterCertificateInput{CertificatePem: &leaf, Status: status}
		if len(c.Chain) > 0 {
			in.CaCertificatePem = new(encode(c.Chain[0])) // several CAs may have its subject
		}
		_, err = i.iot.RegisterCertificate(ctx, in)
	}
	var there *types.ResourceAlreadyExistsException
	switch {
	case errors.As(err, &there):
		if there.ResourceId != nil && *there.ResourceId != string(c.ID) {
			return true, fmt.Errorf("register certificate %s: AWS has it as %.64q", c.ID, *there.ResourceId)
		}
		return true, nil
	case err != nil:
		if !isPassing(err) && i.refused != nil {
			i.refused()
		}
		return false, fmt.Errorf("register certificate %s: %w", c.ID, err)
	}
	return false, nil
}

// attach attaches a certificate to the device's thing, in the way in which its
// others are attached. Idempotent.
func (i *Inventory) attach(ctx context.Context, device registry.DeviceID, id certificate.ID) error {
	seen, err := i.view(ctx, device)
	if err != nil {
		return refuse(certificate.ErrNotAttached, err)
	}
	_, err = i.iot.AttachThingPrincipal(ctx, &iot.AttachThingPrincipalInput{
		ThingName: new(string(device)), Principal: new(i.names.certificate(id)), ThingPrincipalType: seen.attachment,
	})
	if err != nil {
		return refuse(certificate.ErrNotAttached, fmt.Errorf("attach certificate %s to thing %s: %w", id, device, err))
	}
	return nil
}

// takeBack makes harmless what a request has registered that failed. Whatever
// becomes of that, the certificate stays marked.
func (i *Inventory) takeBack(ctx context.Context, id certificate.ID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackTime)
	defer cancel()
	if spared, err := i.isSpared(ctx, id); spared || err != nil {
		i.log.Warn().Str("certificate", string(id)).Err(err).Msg("a certificate that a request had registered is left as it is: its device may use it")
		return
	}
	if err := i.setStatus(ctx, id, types.CertificateStatusInactive); err != nil && !isNotFound(err) {
		i.log.Warn().Str("certificate", string(id)).Err(err).Msg("a certificate that was not vended is left for later")
	}
}
