package aws

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

const (
	// viewKept is how long AWS's list of a thing's certificates is believed. A
	// certificate that speaks and is not in it has the list read anew.
	viewKept = time.Hour
	// freshEvery is how often that may happen to one device.
	freshEvery = time.Minute
)

// view is what AWS says of a thing's principals.
type view struct {
	read         time.Time
	attachment   types.ThingPrincipalType // for one more certificate
	certificates []certificate.ID
	alone        []certificate.ID // of these, which no other thing can have meanwhile
}

// Held implements certificate.Inventory: what the store knows, with what AWS
// has attached to the thing and the store does not know yet. While AWS does not
// answer, what the store knows is the answer, unless it is nothing, or was
// restored and AWS was not asked about the device since.
func (i *Inventory) Held(ctx context.Context, device registry.DeviceID) ([]certificate.Holding, error) {
	unheard := i.learn(ctx, device)
	held, err := i.rows.Held(ctx, device)
	if err == nil && (len(held) == 0 || i.inDoubt(device)) {
		err = unheard
	}
	if err == nil && unheard != nil {
		i.log.Warn().Str("device", string(device)).Err(unheard).Msg("the certificates of the thing, as they were last known")
	}
	return held, err
}

// learn takes into the store what AWS has attached to the thing.
func (i *Inventory) learn(ctx context.Context, device registry.DeviceID) error {
	if _, lately := i.views.get(device); lately && !i.inDoubt(device) {
		return nil
	}
	seen, err := i.view(ctx, device)
	if err != nil {
		return err
	}
	for _, id := range seen.certificates {
		err := i.adopt(ctx, device, id)
		if errors.Is(err, errUnreadable) {
			// It counts for nothing here, and nothing is done to it: the device
			// rotates over its others.
			i.log.Warn().Str("device", string(device)).Err(err).Msg("a certificate of the thing is not taken in")
			continue
		}
		if err != nil {
			i.views.forget(device)
			return err
		}
	}
	return i.believe(ctx, device)
}

// view returns what AWS says, or said lately, of a thing's principals.
func (i *Inventory) view(ctx context.Context, device registry.DeviceID) (view, error) {
	if seen, lately := i.views.get(device); lately {
		return seen, nil
	}
	read := i.now()
	seen, err := i.attached(ctx, device)
	seen.read = read
	if err == nil {
		i.views.put(device, seen)
	}
	return seen, err
}

// attached asks AWS for a thing's principals. A thing that is not there has none.
func (i *Inventory) attached(ctx context.Context, device registry.DeviceID) (view, error) {
	var seen view
	pages := iot.NewListThingPrincipalsV2Paginator(i.iot, &iot.ListThingPrincipalsV2Input{ThingName: new(string(device))})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if isNotFound(err) {
			return view{}, nil
		}
		if err != nil {
			return view{}, fmt.Errorf("list the principals of thing %s: %w", device, err)
		}
		for _, p := range page.ThingPrincipalObjects {
			if id, is := certificateID(deref(p.Principal)); is {
				seen.certificates = append(seen.certificates, id)
				seen.attachment = p.ThingPrincipalType
				if p.ThingPrincipalType == types.ThingPrincipalTypeExclusiveThing {
					seen.alone = append(seen.alone, id)
				}
			}
		}
	}
	return seen, nil
}

// adopt enters a certificate in the store that AWS has attached to a thing. One
// that the store knows as taken from the device stays so: detaching takes AWS a
// while. So does one that is on its way in, or out, when it is to be entered:
// what AWS said of it then is out of date.
func (i *Inventory) adopt(ctx context.Context, device registry.DeviceID, id certificate.ID) error {
	return i.adoptAs(ctx, device, id, i.lookUp)
}

// adoptAs is adopt with what says what the certificate is.
func (i *Inventory) adoptAs(
	ctx context.Context, device registry.DeviceID, id certificate.ID,
	what func(context.Context, certificate.ID) (certificate.Certificate, error),
) error {
	at, err := i.rows.Place(ctx, device, id)
	if err != nil || at.Was {
		return err
	}
	if marked, err := i.marks.Has(ctx, id); err != nil || marked {
		return err // it is on its way in, or out
	}
	c, err := what(ctx, id)
	if isNotFound(err) {
		return nil // gone meanwhile
	}
	if err != nil {
		return err
	}
	err = i.rows.TakeIn(ctx, device, c, i.isRemoved(id))
	if errors.Is(err, certificate.ErrRevoked) || errors.Is(err, certificate.ErrDistrusted) {
		return nil
	}
	return err
}

// lookUp returns a certificate as the store has it, or as AWS has where the
// store has only what AWS once said.
func (i *Inventory) lookUp(ctx context.Context, id certificate.ID) (certificate.Certificate, error) {
	c, err := i.rows.Certificate(ctx, id)
	if err != nil && !errors.Is(err, certificate.ErrUnknown) {
		return c, err
	}
	if err == nil {
		holders, err := i.rows.Holders(ctx, id)
		if err != nil || len(holders) > 0 || c.Standing != certificate.Active && c.Standing != certificate.Inactive {
			return c, err
		}
		if elsewhere, err := i.rows.IsElsewhere(ctx, id); err != nil || c.Standing == certificate.Inactive && !elsewhere {
			return c, err
		}
	}
	return i.describe(ctx, id)
}

// errUnreadable says that what AWS has as a certificate cannot be read as one.
var errUnreadable = errors.New("it cannot be read")

// describe reads a certificate from AWS IoT, with its policies.
func (i *Inventory) describe(ctx context.Context, id certificate.ID) (certificate.Certificate, error) {
	var none certificate.Certificate
	out, err := i.iot.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: new(string(id))})
	if err != nil {
		return none, fmt.Errorf("describe certificate %s: %w", id, err)
	}
	d := out.CertificateDescription
	block, _ := pem.Decode([]byte(deref(d.CertificatePem)))
	if block == nil {
		return none, fmt.Errorf("describe certificate %s: AWS returned no PEM: %w", id, errUnreadable)
	}
	c, err := certificate.New(block.Bytes, nil)
	switch {
	case err != nil:
		return none, fmt.Errorf("describe certificate %s: %w: %w", id, errUnreadable, err)
	case c.ID != id:
		return none, fmt.Errorf("describe certificate %s: AWS returned the PEM of %s: %w", id, c.ID, errUnreadable)
	}
	c.Kind, c.Standing = certificate.Adopted, standingOf(d.Status)
	if d.CreationDate != nil {
		c.Created = *d.CreationDate
	}
	if c.Standing != certificate.Revoked {
		i.valid.put(id, struct{}{})
	}
	if c.Policies, err = i.policies(ctx, id); err == nil {
		i.said.put(id, c.Policies)
	}
	return c, err
}

// standingOf returns how a certificate stands that AWS shows so: what is not
// ACTIVE there cannot connect.
func standingOf(status types.CertificateStatus) certificate.Standing {
	switch status {
	case types.CertificateStatusActive:
		return certificate.Active
	case types.CertificateStatusRevoked:
		return certificate.Revoked
	}
	return certificate.Inactive
}

// policiesKept is how long the policies of a certificate are believed that AWS has
// listed: for the request that asked.
const policiesKept = time.Minute

// Policies is as vending.Ports has it. Of a certificate that AWS does not have any
// more they are those that the store knows.
func (i *Inventory) Policies(ctx context.Context, id certificate.ID) ([]string, error) {
	if names, lately := i.said.get(id); lately {
		return names, nil
	}
	names, err := i.policies(ctx, id)
	if isNotFound(err) {
		c, err := i.rows.Certificate(ctx, id)
		return c.Policies, err
	}
	return names, refuse(nil, err)
}

// policies returns the names of the policies attached to a certificate itself,
// not those of its thing's groups.
func (i *Inventory) policies(ctx context.Context, id certificate.ID) ([]string, error) {
	var all []string
	pages := iot.NewListAttachedPoliciesPaginator(i.iot, &iot.ListAttachedPoliciesInput{Target: new(i.names.certificate(id))})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the policies of certificate %s: %w", id, err)
		}
		for _, p := range page.Policies {
			all = append(all, deref(p.PolicyName))
		}
	}
	return all, nil
}

// deref returns what a pointer of the SDK points to, or "".
func deref(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}
