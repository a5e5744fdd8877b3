package aws

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/acmpca"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"
	"github.com/aws/smithy-go/middleware"
)

// Account says which account and region to work in, and as whom.
type Account struct {
	Region  string // as AWS spells it; where empty, the environment's
	Profile string // of the shared configuration files; where empty, the environment's

	// Role is assumed for every call, where one is given.
	Role string

	// Endpoint takes the place of every service's own, for a double of AWS.
	Endpoint string

	// HTTP carries the calls of the clients, where given; the SDK's own
	// otherwise, which heeds AWS_CA_BUNDLE.
	HTTP *http.Client

	// Credentials are used as they are, where given; the SDK's chain otherwise.
	Credentials awssdk.CredentialsProvider

	// Quotas pace every call.
	Quotas *Quotas

	// Backoff is the longest pause between the attempts of a call. Default 2s.
	Backoff time.Duration
}

// Clients are one account's services. They are safe for use by many goroutines,
// and share credentials, retries and quotas.
type Clients struct {
	IoT *iot.Client
	S3  *s3.Client
	SSM *ssm.Client
	KMS *kms.Client
	PCA *acmpca.Client
	STS *sts.Client
	// Lambda is for registries that are behind a function.
	Lambda *lambda.Client
	// Dynamo is for the tables of presence and of a store that is shared.
	Dynamo *dynamodb.Client
	// IAM is for the role of the topic rules, which only Setup makes.
	IAM *iam.Client

	// Quotas pace and count every call of these clients, and of those that are
	// made from Config.
	Quotas *Quotas

	// Config is what the clients were made from, for a client of another
	// region or role.
	Config awssdk.Config
}

// answerTime is how long one attempt of a call waits for its answer: the SDK sets
// no time, and what is lost on the network would hold up its caller for as long
// as TCP tries.
const answerTime = 30 * time.Second

// Dial loads the configuration and makes the clients. It calls nobody: the
// first call may show that the credentials are wrong.
func Dial(ctx context.Context, account Account) (*Clients, error) {
	loaded, err := config.LoadDefaultConfig(ctx, account.options()...)
	if err != nil {
		return nil, fmt.Errorf("load the AWS configuration: %w", err)
	}
	if loaded.Region == "" {
		return nil, fmt.Errorf("no AWS region: set aws.region or AWS_REGION")
	}
	if own, is := loaded.HTTPClient.(*awshttp.BuildableClient); is {
		loaded.HTTPClient = own.WithTransportOptions(func(t *http.Transport) { t.ResponseHeaderTimeout = answerTime })
	}
	if account.HTTP != nil {
		loaded.HTTPClient = account.HTTP
	}
	if account.Endpoint != "" {
		loaded.BaseEndpoint = &account.Endpoint
	}
	if account.Role != "" {
		assumed := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(loaded), account.Role)
		loaded.Credentials = awssdk.NewCredentialsCache(assumed)
	}
	made := clients(loaded, account.Endpoint != "")
	made.Quotas = account.Quotas
	return made, nil
}

func (a Account) options() []func(*config.LoadOptions) error {
	options := []func(*config.LoadOptions) error{
		config.WithRetryer(a.retryer),
		config.WithLogger(logging.Nop{}), // what fails is in the error: these lines are not of our log
		config.WithAPIOptions([]func(*middleware.Stack) error{a.Quotas.join}),
	}
	if a.Region != "" {
		options = append(options, config.WithRegion(a.Region))
	}
	if a.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(a.Profile))
	}
	if a.Credentials != nil {
		options = append(options, config.WithCredentialsProvider(a.Credentials))
	}
	return options
}

func clients(c awssdk.Config, double bool) *Clients {
	return &Clients{
		IoT: iot.NewFromConfig(c),
		S3: s3.NewFromConfig(c, func(o *s3.Options) {
			// A double has one host name, so that a bucket cannot be part of it.
			o.UsePathStyle = double
		}),
		SSM:    ssm.NewFromConfig(c),
		KMS:    kms.NewFromConfig(c),
		PCA:    acmpca.NewFromConfig(c),
		STS:    sts.NewFromConfig(c),
		Lambda: lambda.NewFromConfig(c),
		Dynamo: dynamodb.NewFromConfig(c),
		IAM:    iam.NewFromConfig(c),
		Config: c,
	}
}

// Caller returns the ARN of whoever the calls are made as.
func (c *Clients) Caller(ctx context.Context) (string, error) {
	caller, err := c.STS.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return "", nobody(err)
	}
	return deref(caller.Arn), nil
}

// nobody says that AWS did not tell who we are.
func nobody(err error) error {
	return fmt.Errorf("ask AWS who we are: %w: credentials come from the environment, aws.profile, aws.role, or the role of the machine", err)
}

// Account returns the number of the account that the calls are made in.
func (c *Clients) Account(ctx context.Context) (string, error) {
	caller, err := c.Caller(ctx)
	if err != nil {
		return "", err
	}
	n, err := namesFrom(caller, c.Config.Region)
	return n.account, err
}

// attempts is how often a call is made: once more than the SDK would, since
// the calls of a rotation are few and each is dear to repeat from the start.
const attempts = 4

// retryer is the SDK's own, but for a limit of how many of something there may
// be, which no repetition gets past.
func (a Account) retryer() awssdk.Retryer {
	hard := retry.IsErrorRetryableFunc(func(err error) awssdk.Ternary {
		if codeOf(err) == limitExceeded {
			return awssdk.FalseTernary
		}
		return awssdk.UnknownTernary
	})
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts, o.MaxBackoff = attempts, cmp.Or(a.Backoff, 2*time.Second)
		o.Retryables = append([]retry.IsErrorRetryable{hard}, o.Retryables...)
	})
}
