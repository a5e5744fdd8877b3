package aws

import (
	"context"
	"fmt"
	"sync"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/time/rate"
)

// quotas are how many calls a second AWS allows an account and region by
// default (General Reference, AWS IoT Core, ACM PCA, SSM and KMS quotas). An
// API that is not here has otherwise calls a second.
var quotas = map[string]float64{
	"RegisterCertificate": 10, "RegisterCertificateWithoutCA": 10, "CreateCertificateFromCsr": 15,
	"DescribeCertificate": 10, "UpdateCertificate": 10, "DeleteCertificate": 10, "ListCertificates": 10,
	"DescribeCACertificate": 10, "RegisterCACertificate": 10, "UpdateCACertificate": 10, "GetRegistrationCode": 10, "PutParameter": 3,
	"AttachThingPrincipal": 50, "DetachThingPrincipal": 50, "ListThingPrincipals": 20, "ListThingPrincipalsV2": 20,
	"ListPrincipalThings": 10, "ListPrincipalThingsV2": 10, "AttachPolicy": 15, "DetachPolicy": 15, "ListAttachedPolicies": 15,
	"DescribeThing": 350, "UpdateThing": 50, "CreateThing": 50,
	"AddThingToThingGroup": 60, "RemoveThingFromThingGroup": 50, "ListThingsInThingGroup": 25,
	"ListThingGroupsForThing": 50, "ListThings": 10, "SearchIndex": 15, "ListAuditFindings": 10,
	"CreateThingGroup": 25, "DescribeThingGroup": 25, "DeleteThingGroup": 25,
	"CreateJob": 10, "DescribeJob": 10, "CancelJob": 10, "ListJobExecutionsForJob": 10, "DescribeJobExecution": 10,
	"DeleteJobExecution": 10, "DescribeEndpoint": 10,
	"IssueCertificate": 25, "GetCertificate": 75, "DescribeCertificateAuthority": 20,
	"GetCertificateAuthorityCertificate": 20, "GetParameter": 40, "Sign": 1000, "GetPublicKey": 2000,
	"CreateTopicRule": 5, "Invoke": 1000, // of Lambda: as many as run at a time, by default
	"GetItem": 3000, "Query": 3000, "PutItem": 1000, "UpdateItem": 1000, "BatchWriteItem": 1000, // DynamoDB, a partition and second
	"HeadObject": 5500, "GetObject": 5500, "PutObject": 3500, "DeleteObject": 3500, // S3, a prefix and second
}

const (
	otherwise = 10
	// leastShare is what is left of a rate however often AWS throttles.
	leastShare = 1.0 / 16
	// yieldEvery is how long a rate is left alone after it was halved, so that
	// calls that went out together count as one.
	yieldEvery = time.Second
	// growth is how much of its full rate an API gets back with each second
	// in which AWS answers.
	growth = 1.0 / 20
)

// Quotas paces the calls to each API: a token bucket at a share of what AWS
// allows, halved when AWS throttles all the same, and growing back while it
// answers. It also counts the calls. Safe for concurrent use.
type Quotas struct {
	share float64
	rates map[string]float64 // a second; in place of those of AWS
	now   func() time.Time

	mu    sync.Mutex
	apis  map[string]*bucket
	leads func() error // nil: no lease is needed for a call
}

// whileLeading lets calls out only while leads returns nil, but for those to
// DynamoDB, where the lease itself is.
func (q *Quotas) whileLeading(leads func() error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leads = leads
}

func (q *Quotas) mayCall(ctx context.Context) error {
	q.mu.Lock()
	leads := q.leads
	q.mu.Unlock()
	if leads == nil || awsmiddleware.GetServiceID(ctx) == dynamodb.ServiceID {
		return nil
	}
	return leads()
}

// bucket is one API's.
type bucket struct {
	limiter   *rate.Limiter
	full      float64
	yielded   time.Time
	grown     time.Time
	calls     int64
	throttled int64
}

// NewQuotas returns quotas of a share of AWS's defaults, more than 0 and at
// most 1, or of the rates a second that are named.
func NewQuotas(share float64, rates map[string]float64, now func() time.Time) (*Quotas, error) {
	if share <= 0 || share > 1 {
		return nil, fmt.Errorf("aws.quota_share: %g is not more than 0 and at most 1", share)
	}
	for api, perSecond := range rates {
		if perSecond <= 0 {
			return nil, fmt.Errorf("aws.quotas: %s: must be more than 0", api)
		}
	}
	return &Quotas{share: share, rates: rates, now: now, apis: map[string]*bucket{}}, nil
}

// Count is what is known of the calls to an API.
type Count struct {
	Calls     int64   // attempts, each repetition of its own
	Throttled int64   // that AWS refused because there were too many
	PerSecond float64 // how many are let through now
}

// Counts returns the counts by the name of the API.
func (q *Quotas) Counts() map[string]Count {
	q.mu.Lock()
	defer q.mu.Unlock()
	counts := map[string]Count{}
	for api, b := range q.apis {
		counts[api] = Count{b.calls, b.throttled, float64(b.limiter.Limit())}
	}
	return counts
}

func (q *Quotas) bucket(api string) *bucket {
	q.mu.Lock()
	defer q.mu.Unlock()
	b, ok := q.apis[api]
	if !ok {
		full, known := q.rates[api]
		if !known {
			perSecond, documented := quotas[api]
			if !documented {
				perSecond = otherwise
			}
			full = perSecond * q.share
		}
		b = &bucket{limiter: rate.NewLimiter(rate.Limit(full), max(int(full), 1)), full: full}
		q.apis[api] = b
	}
	return b
}

// wait returns when a call to an API may go out.
func (q *Quotas) wait(ctx context.Context, api string) error {
	b := q.bucket(api)
	if err := b.limiter.Wait(ctx); err != nil {
		return fmt.Errorf("%s: %w: %w", api, errQuota, err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	b.calls++
	return nil
}

// told learns from how AWS answered.
func (q *Quotas) told(api string, err error) {
	b := q.bucket(api)
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	limit := float64(b.limiter.Limit())
	switch {
	case isThrottle(err):
		b.throttled++
		if now.Sub(b.yielded).Abs() >= yieldEvery {
			b.yielded, b.grown = now, now
			limit = max(limit/2, b.full*leastShare)
		}
	case limit < b.full && now.Sub(b.grown).Abs() >= time.Second:
		b.grown = now
		limit = min(limit+b.full*growth, b.full)
	}
	if limit != float64(b.limiter.Limit()) {
		b.limiter.SetLimit(rate.Limit(limit))
	}
}

// join has every attempt of every call wait for its quota, before it is
// signed. A stack that sends nothing, as that of a presigned URL, is left
// alone.
func (q *Quotas) join(stack *middleware.Stack) error {
	if _, sends := stack.Finalize.Get("Retry"); !sends {
		return nil
	}
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("CertvendorQuota",
		func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (
			out middleware.FinalizeOutput, metadata middleware.Metadata, err error,
		) {
			api := awsmiddleware.GetOperationName(ctx)
			if err := q.wait(ctx, api); err != nil {
				return out, metadata, err
			}
			if err := q.mayCall(ctx); err != nil {
				return out, metadata, err
			}
			out, metadata, err = next.HandleFinalize(ctx, in)
			q.told(api, err)
			return out, metadata, err
		}), "Retry", middleware.After)
}
