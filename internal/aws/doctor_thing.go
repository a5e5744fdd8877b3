package aws

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/registry"
)

const lastSoon = 30 * 24 * time.Hour

// ExamineThing looks at one thing as a rotation would find it. It changes
// nothing.
func (d *Doctor) ExamineThing(ctx context.Context, thing string, tell func(Finding)) {
	who := d.Credentials(ctx)
	tell(who)
	if who.Verdict != OK {
		return
	}
	say := func(check string, f Finding) {
		f.Check = check
		tell(f)
	}
	f, there := d.thing(ctx, thing)
	say("thing", f)
	if !there {
		return
	}
	say("groups", d.groups(ctx, thing))
	seen, err := d.inventory().attached(ctx, registry.DeviceID(thing))
	if err != nil {
		say("certificates", fault(err))
		return
	}
	if len(seen.certificates) == 0 {
		say("certificates", bad("attach one: a device that connects with none of the thing's is a stranger", "the thing has none"))
	}
	for _, id := range seen.certificates {
		d.certificate(ctx, id, say)
	}
	say("ca", d.authority(ctx))
}

func (d *Doctor) thing(ctx context.Context, name string) (Finding, bool) {
	out, err := d.config.Clients.IoT.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: &name})
	if isNotFound(err) {
		if d.config.Scope.Registry == ThingsSource {
			return bad("a get would be answered DEVICE_NOT_WHITELISTED: make the thing", "there is no thing %s", name), false
		}
		return bad("make it: a certificate is attached to a thing", "there is no thing %s", name), false
	}
	if err != nil {
		return fault(err), false
	}
	said := ""
	for _, attribute := range []string{"status", "certificateId", "certNotAfter"} {
		if text := out.Attributes[attribute]; text != "" {
			said += fmt.Sprintf(", %s %.12s", attribute, text)
		}
	}
	return good("there, with %d attributes%s", len(out.Attributes), said), true
}

// groups counts them: one more is needed for the time of a rotation.
func (d *Doctor) groups(ctx context.Context, thing string) Finding {
	var names []string
	pages := iot.NewListThingGroupsForThingPaginator(d.config.Clients.IoT, &iot.ListThingGroupsForThingInput{ThingName: &thing})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fault(err)
		}
		for _, g := range page.ThingGroups {
			names = append(names, deref(g.GroupName))
		}
	}
	for _, name := range names {
		if name == d.config.Scope.Group {
			return good("%d, and %s is among them: it has been asked to rotate", len(names), name)
		}
	}
	if len(names) >= mostGroups {
		return bad("take it out of one", "%d: it cannot become a member of %s as well", len(names), d.config.Scope.Group)
	}
	return good("%d of at most %d", len(names), mostGroups)
}

// certificate looks at one that the thing has.
func (d *Doctor) certificate(ctx context.Context, id certificate.ID, say func(string, Finding)) {
	name := "certificate " + string(id[:12])
	out, err := d.config.Clients.IoT.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: new(string(id))})
	if err != nil {
		say(name, fault(err))
		return
	}
	say(name, d.standing(out.CertificateDescription))
	policies, err := d.inventory().policies(ctx, id)
	if err != nil {
		say(name+": policies", fault(err))
		return
	}
	say(name+": policies", d.inheritable(policies))
}

func (d *Doctor) standing(c *types.CertificateDescription) Finding {
	chain, err := readChain(deref(c.CertificatePem))
	if err != nil {
		return bad("", "its PEM: %v", err)
	}
	leaf, now := chain[0], d.config.Now()
	what := fmt.Sprintf("%s, CN %q, until %s", c.Status, leaf.Subject.CommonName, leaf.NotAfter.UTC().Format(time.DateOnly))
	switch {
	case c.Status != types.CertificateStatusActive:
		return good("%s: nobody connects with it", what)
	case now.After(leaf.NotAfter):
		return bad("it cannot connect: the device needs another one by other means", "%s: it has expired", what)
	case now.Before(leaf.NotBefore):
		return bad("", "%s: it is not valid before %s", what, leaf.NotBefore.UTC().Format(time.DateTime))
	case leaf.NotAfter.Sub(now) < lastSoon:
		return bad("rotate it: certvendor rotation add", "%s: less than 30 days", what)
	}
	return good("%s", what)
}

// inheritable counts what a new certificate would be given, where it inherits.
func (d *Doctor) inheritable(policies []string) Finding {
	switch {
	case len(policies) == 0:
		return unknown("with policy.mode inherit and no policy.default, a get over it is refused; a device can do nothing with it", "none of its own")
	case len(policies) > certificate.MostPolicies:
		return bad("detach some", "%d, and a certificate has room for %d", len(policies), certificate.MostPolicies)
	}
	return good("%d of at most %d: %s", len(policies), certificate.MostPolicies, strings.Join(policies, ", "))
}
