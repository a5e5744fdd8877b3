package aws

import (
	"fmt"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/acmpca"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// PrivateCAIn returns a client for the region in which a CA is, which its ARN
// says, and for its account: with a role, that one is assumed, as whoever the
// configuration is. It calls nobody.
func PrivateCAIn(c awssdk.Config, ca, role string) (*acmpca.Client, error) {
	parsed, err := arn.Parse(ca)
	if err != nil {
		return nil, fmt.Errorf("ACM PCA: %q: %w", ca, err)
	}
	own := c.Copy()
	if role != "" {
		assumed := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(c), role, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName = "certvendor"
		})
		own.Credentials = awssdk.NewCredentialsCache(assumed)
	}
	own.Region = parsed.Region
	return acmpca.NewFromConfig(own), nil
}
