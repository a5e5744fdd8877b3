package aws

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/acmpca"
	pcatypes "github.com/aws/aws-sdk-go-v2/service/acmpca/types"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/jobs"
)

// dataEndpoint is the broker's, with a certificate of Amazon's own roots.
const dataEndpoint = "iot:Data-ATS"

func (d *Doctor) endpoint(ctx context.Context) Finding {
	out, err := d.config.Clients.IoT.DescribeEndpoint(ctx, &iot.DescribeEndpointInput{EndpointType: new(dataEndpoint)})
	if err != nil {
		return fault(err)
	}
	host := d.config.Endpoint
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if own := deref(out.EndpointAddress); !strings.EqualFold(own, host) {
		return unknown("right if that is a domain of yours, or an endpoint in a VPC; otherwise set aws.broker.endpoint to the account's own",
			"aws.broker.endpoint is %s; the account's own is %s", host, own)
	}
	return good("%s is the account's own", host)
}

// authority looks at the CA as AWS IoT has it registered.
func (d *Doctor) authority(ctx context.Context) Finding {
	id, what := d.config.Scope.Issuer.CA, ""
	switch d.config.Scope.Issuer.Kind {
	case iotIssuer:
		return good("AWS IoT's own, whose certificates end in 2049")
	case pcaIssuer:
		var f Finding
		if id, f = d.privateCA(ctx); f.Verdict != "" {
			return f
		}
		what = "ACM PCA's "
	}
	out, err := d.config.Clients.IoT.DescribeCACertificate(ctx, &iot.DescribeCACertificateInput{CertificateId: new(string(id))})
	switch {
	case isNotFound(err) && d.config.Scope.Registration == WithoutCA:
		return good("%sCA %s is not registered, and with aws.registration without-ca need not be", what, id)
	case isNotFound(err):
		return bad("certvendor ca register", "%sCA %s is not registered in AWS IoT", what, id)
	case err != nil:
		return fault(err)
	case out.CertificateDescription == nil:
		return unknown("", "AWS says nothing of CA %s", id)
	}
	return d.registered(*out.CertificateDescription)
}

func (d *Doctor) registered(ca types.CACertificateDescription) Finding {
	if ca.Status != types.CACertificateStatusActive {
		return bad("certvendor ca register makes it ACTIVE", "CA %s is %s", deref(ca.CertificateId), ca.Status)
	}
	chain, err := readChain(deref(ca.CertificatePem))
	if err != nil {
		return bad("", "CA %s: %v", deref(ca.CertificateId), err)
	}
	left := chain[0].NotAfter.Sub(d.config.Now())
	until := chain[0].NotAfter.UTC().Format(time.DateOnly)
	switch {
	case left <= 0:
		return bad("certvendor ca register registers another one", "CA %q has expired on %s", chain[0].Subject, until)
	case left < d.config.Validity:
		return bad("register another one in time, or lower vending.validity",
			"CA %q ends on %s: certificates get less than vending.validity", chain[0].Subject, until)
	}
	return good("%q is ACTIVE until %s%s", chain[0].Subject, until, inMode(ca.CertificateMode))
}

func inMode(mode types.CertificateMode) string {
	if mode == "" {
		return ""
	}
	return ", in mode " + string(mode)
}

// privateCA returns the id that the first CA of ACM PCA has in AWS IoT, or what
// is wrong with it.
func (d *Doctor) privateCA(ctx context.Context) (certificate.ID, Finding) {
	i := d.config.Scope.Issuer
	client, err := PrivateCAIn(d.config.Clients.Config, i.CAs[0], i.Role)
	if err != nil {
		return "", fault(err)
	}
	about, err := client.DescribeCertificateAuthority(ctx, &acmpca.DescribeCertificateAuthorityInput{CertificateAuthorityArn: &i.CAs[0]})
	if err != nil {
		return "", fault(err)
	}
	if ca := about.CertificateAuthority; ca == nil || ca.Status != pcatypes.CertificateAuthorityStatusActive {
		return "", bad("activate it in ACM Private CA", "%s is not ACTIVE", i.CAs[0])
	}
	ca, err := PrivateCAVoucher{ARN: i.CAs[0], Client: client}.Certificate(ctx)
	if err != nil {
		return "", fault(err)
	}
	return certificate.IDOf(ca.Raw), Finding{}
}

// issuer makes sure of what signs, and has nothing signed.
func (d *Doctor) issuer(ctx context.Context) Finding {
	if d.config.Signs == nil {
		return unknown("a rotation shows it", "AWS IoT's own CA signs for whoever may call CreateCertificateFromCsr")
	}
	until, err := d.config.Signs(ctx)
	switch {
	case errors.Is(err, certificate.ErrNoCAKey):
		return bad("certvendor ca register --put-key, or see aws.issuer", "its key: %s", said(err))
	case errors.Is(err, certificate.ErrNoCA):
		return bad("see ca, above", "no CA: %s", said(err))
	case err != nil:
		return fault(err)
	}
	return good("%s: there, and the CA's; what it signs can last until %s", d.config.Scope.Issuer.Kind, until.UTC().Format(time.DateOnly))
}

// packages asks for an object that is not there.
func (d *Doctor) packages(ctx context.Context) Finding {
	p := d.config.Scope.Packages
	if p.Bucket == "" {
		return good("none are configured")
	}
	key := p.Prefix + trialPrefix + "none" + p.Suffix
	_, err := d.config.Clients.S3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &p.Bucket, Key: &key})
	switch {
	case isDenied(err):
		return bad("allow s3:GetObject on the objects and s3:ListBucket on the bucket: certvendor policy daemon",
			"s3://%s may not be read, or belongs to somebody else", p.Bucket)
	case isNotFound(err):
		_, err = d.config.Clients.S3.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &p.Bucket})
		if isNotFound(err) {
			return bad("make it, or set aws.packages.bucket", "there is no bucket %s", p.Bucket)
		}
		return good("s3://%s is there, and says what is not in it", p.Bucket)
	case err != nil:
		return fault(err)
	}
	return unknown("", "s3://%s/%s is there, and should not be", p.Bucket, key)
}

// reading makes the daemon's calls that only read, about what does not exist:
// whoever is told so may ask.
func (d *Doctor) reading(ctx context.Context) Finding {
	c, nobody, missing := d.config.Clients.IoT, trialPrefix+"none", string(noCertificate)
	group, cert := d.config.Scope.Group, d.names.certificate(noCertificate)
	job := jobs.New(group, d.config.Scope.Topics).ID
	calls := map[string]func() error{
		"DescribeThing": func() error {
			_, err := c.DescribeThing(ctx, &iot.DescribeThingInput{ThingName: &nobody})
			return err
		},
		"ListThingPrincipalsV2": func() error {
			_, err := c.ListThingPrincipalsV2(ctx, &iot.ListThingPrincipalsV2Input{ThingName: &nobody})
			return err
		},
		"DescribeCertificate": func() error {
			_, err := c.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: &missing})
			return err
		},
		"ListAttachedPolicies": func() error {
			_, err := c.ListAttachedPolicies(ctx, &iot.ListAttachedPoliciesInput{Target: &cert})
			return err
		},
		"ListPrincipalThings": func() error {
			_, err := c.ListPrincipalThings(ctx, &iot.ListPrincipalThingsInput{Principal: &cert})
			return err
		},
		"ListThingsInThingGroup": func() error {
			_, err := c.ListThingsInThingGroup(ctx, &iot.ListThingsInThingGroupInput{ThingGroupName: &group})
			return err
		},
		"DescribeJob": func() error {
			_, err := c.DescribeJob(ctx, &iot.DescribeJobInput{JobId: &job})
			return err
		},
		"DescribeJobExecution": func() error {
			_, err := c.DescribeJobExecution(ctx, &iot.DescribeJobExecutionInput{JobId: &job, ThingName: &nobody})
			return err
		},
	}
	return judge(calls)
}

// judge makes calls, and says which of them AWS refuses and which it does not
// answer.
func judge(calls map[string]func() error) Finding {
	var denied, silent []string
	for name, call := range calls {
		err := call()
		switch {
		case err == nil, isNotFound(err), codeOf(err) == invalidRequest:
		case fault(err).Verdict == Unknown:
			silent = append(silent, name)
		default:
			denied = append(denied, fmt.Sprintf("%s (%s)", name, codeOf(err)))
		}
	}
	switch {
	case len(denied) > 0:
		return bad("certvendor policy daemon prints what the daemon needs", "refused: %s", sorted(denied))
	case len(silent) > 0:
		return unknown("try again", "AWS does not answer %s", sorted(silent))
	}
	return good("%d calls are allowed", len(calls))
}

func (d *Doctor) quotas(context.Context) Finding {
	return unknown("hold aws.quota_share and aws.quotas against the account's quotas, in the console's Service Quotas",
		"no call of AWS IoT tells them; the daemon counts what is throttled in certvendor_aws_throttled_total")
}

// resources holds what setup would make against what is there.
func (d *Doctor) resources(ctx context.Context, tell func(Finding)) {
	steps, err := d.config.Plan(ctx)
	for _, s := range steps {
		f := inPlan(s)
		f.Check = s.Resource.String()
		tell(f)
	}
	if err != nil {
		f := fault(err)
		f.Check = "what setup makes"
		tell(f)
		return
	}
	f := d.others(ctx)
	f.Check = "who else answers"
	tell(f)
}

func inPlan(s Step) Finding {
	switch s.Do {
	case DoKeep:
		return good("there, as it should be")
	case DoCreate:
		return bad("certvendor setup makes it", "not there")
	case DoUpdate:
		return bad("certvendor setup brings it up to date", "differs: %s", s.Why)
	}
	return bad("give the daemon another name, or take that one away", "somebody else's: %s", s.Why)
}

func (d *Doctor) others(ctx context.Context) Finding {
	others, err := d.config.Others(ctx)
	if err != nil {
		return fault(err)
	}
	var all []string
	for _, o := range others {
		all = append(all, fmt.Sprintf("topic rule %s hears %s and %s", o.Rule, o.Topic, o.Does))
	}
	if len(all) > 0 {
		return bad("take the rules away, unless both shall answer", "%s", sorted(all))
	}
	return good("no topic rule; who subscribes to the topics cannot be found")
}
