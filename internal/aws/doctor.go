package aws

import (
	"context"
	"errors"
	"fmt"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/certvendor/certvendor/certificate"
)

// Verdict is what a check has come to.
type Verdict string

// The verdicts.
const (
	OK      Verdict = "ok"
	Failed  Verdict = "failed"
	Unknown Verdict = "unknown" // it was not shown, one way or the other
)

// Finding is what a check has shown.
type Finding struct {
	Check   string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	Found   string  `json:"found"`
	Do      string  `json:"do,omitempty"` // what to do about it
}

func good(format string, args ...any) Finding {
	return Finding{Verdict: OK, Found: fmt.Sprintf(format, args...)}
}

func bad(do, format string, args ...any) Finding {
	return Finding{Verdict: Failed, Found: fmt.Sprintf(format, args...), Do: do}
}

func unknown(do, format string, args ...any) Finding {
	return Finding{Verdict: Unknown, Found: fmt.Sprintf(format, args...), Do: do}
}

// fault is what follows from a call that failed: nothing, where AWS did not
// answer it.
func fault(err error) Finding {
	switch {
	case isDenied(err) || codeOf(err) == "AccessDeniedException" || codeOf(err) == "UnauthorizedException":
		return bad("allow it: certvendor policy daemon prints what the daemon needs", "AWS does not allow it: %s", said(err))
	case isPassing(err):
		return unknown("try again", "AWS does not answer: %v", err)
	}
	return bad("", "%s", said(err))
}

// said is what AWS says of an error, without the SDK's words around it.
func said(err error) string {
	var operation *smithy.OperationError
	var api smithy.APIError
	if errors.As(err, &operation) && errors.As(err, &api) {
		return fmt.Sprintf("%s: %s: %s", operation.Operation(), api.ErrorCode(), api.ErrorMessage())
	}
	return err.Error()
}

// DoctorConfig is what a Doctor looks at.
type DoctorConfig struct {
	Clients *Clients
	Scope   Scope // its account is asked for
	Way     Way   // into the broker
	// Endpoint is the broker's, as configured.
	Endpoint string
	// Plan says what the account has, and what setup would make of it; Others
	// who else answers devices.
	Plan   func(context.Context) ([]Step, error)
	Others func(context.Context) ([]Other, error)
	// Signs says until when what is issued now can last, where the issuer knows.
	Signs    func(context.Context) (time.Time, error)
	Validity time.Duration // of what is issued
	Now      func() time.Time
}

// Doctor looks whether an account is as the daemon of a configuration needs it.
// It changes nothing: see Trial for what has to be tried.
type Doctor struct {
	config DoctorConfig
	names  names
}

// NewDoctor asks nobody anything.
func NewDoctor(c DoctorConfig) *Doctor { return &Doctor{config: c} }

// check is one look at the account.
type check struct {
	name string
	look func(context.Context) Finding
}

// Examine looks at the account, and tells what each check has shown. Without
// credentials it tells of nothing else.
func (d *Doctor) Examine(ctx context.Context, tell func(Finding)) {
	who, clock := d.credentials(ctx)
	tell(who)
	if who.Verdict != OK {
		return
	}
	tell(clock)
	checks := []check{
		{"endpoint", d.endpoint}, {"broker", d.broker}, {"ca", d.authority}, {"issuer", d.issuer}, {"packages", d.packages},
		{"permissions: reading", d.reading}, {"quotas", d.quotas},
	}
	for _, c := range checks {
		if ctx.Err() != nil {
			return
		}
		f := c.look(ctx)
		f.Check = c.name
		tell(f)
	}
	d.resources(ctx, tell)
}

// Credentials checks them alone, and learns whose account it is.
func (d *Doctor) Credentials(ctx context.Context) Finding {
	f, _ := d.credentials(ctx)
	return f
}

// clockLimit is how far apart our clock and AWS's may be: an envelope from the
// future is dropped, and a signature from the past refused.
const clockLimit = envelopeSkew / 2

// credentials asks who we are, and holds our clock against AWS's.
func (d *Doctor) credentials(ctx context.Context) (who, clock Finding) {
	out, err := d.config.Clients.STS.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err == nil {
		d.names, err = namesFrom(deref(out.Arn), d.config.Clients.Config.Region)
	}
	if err != nil {
		who = bad("see docs/aws.md: environment, aws.profile, aws.role, or the role of the machine", "nobody: %s", said(err))
		who.Check = "credentials"
		return who, clock
	}
	d.config.Scope.Account, d.config.Scope.Region = d.names.account, d.names.region
	who = good("%s in %s", deref(out.Arn), d.names.region)
	who.Check = "credentials"
	clock = d.skew(awsmiddleware.GetServerTime(out.ResultMetadata))
	clock.Check = "clock"
	return who, clock
}

// skew compares the clocks by the time of an answer that has just come, which
// has whole seconds.
func (d *Doctor) skew(theirs time.Time, known bool) Finding {
	if !known || theirs.IsZero() {
		return unknown("", "AWS says no time")
	}
	apart := d.config.Now().Sub(theirs).Round(time.Second)
	if apart.Abs() > clockLimit {
		return bad("set the clock, by NTP for example", "%s apart from AWS's", apart)
	}
	return good("%s apart from AWS's", apart)
}

// noCertificate is a certificate that does not exist.
var noCertificate = certificate.ID(fmt.Sprintf("%064x", 0))

// trialPrefix begins the name of everything that a Doctor speaks of or makes.
const trialPrefix = "certvendor-doctor-"

// inventory asks AWS as the daemon does, and knows no store.
func (d *Doctor) inventory() *Inventory {
	return &Inventory{iot: d.config.Clients.IoT, names: d.names}
}
