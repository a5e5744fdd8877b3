package aws

import (
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/certvendor/certvendor/certificate"
)

// names makes and reads the ARNs of one account and region. The partition (aws,
// aws-cn, aws-us-gov) is the account's own.
type names struct{ partition, region, account string }

// namesFrom reads partition and account from the ARN of whoever calls.
func namesFrom(caller, region string) (names, error) {
	a, err := arn.Parse(caller)
	if err != nil {
		return names{}, fmt.Errorf("the caller's ARN %.200q: %w", caller, err)
	}
	return names{partition: a.Partition, region: region, account: a.AccountID}, nil
}

func (n names) iot(resource string) string {
	return arn.ARN{
		Partition: n.partition, Service: "iot", Region: n.region, AccountID: n.account, Resource: resource,
	}.String()
}

func (n names) certificate(id certificate.ID) string { return n.iot("cert/" + string(id)) }

func (n names) group(name string) string { return n.iot("thinggroup/" + name) }

// certificateID returns the id in the ARN of a certificate of AWS IoT, and
// false for every other principal: an IAM user, a Cognito identity.
func certificateID(principal string) (certificate.ID, bool) {
	a, err := arn.Parse(principal)
	if err != nil || a.Service != "iot" {
		return "", false
	}
	text, isCertificate := strings.CutPrefix(a.Resource, "cert/")
	if !isCertificate {
		return "", false
	}
	id, err := certificate.ParseID(text)
	return id, err == nil
}
