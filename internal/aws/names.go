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

func (n names) iot(resource string) string { return n.of("iot", resource) }

// of returns the ARN of a resource of another service.
func (n names) of(service, resource string) string {
	return arn.ARN{
		Partition: n.partition, Service: service, Region: n.region, AccountID: n.account, Resource: resource,
	}.String()
}

// bucket returns the ARN of a bucket of S3, or of objects in it: their names
// belong to no account.
func (n names) bucket(name string) string {
	return arn.ARN{Partition: n.partition, Service: "s3", Resource: name}.String()
}

// key returns the ARN of a key of KMS that goes by its id, an alias or an ARN.
// Of an alias the condition says which keys are meant.
func (n names) key(name string) (string, Condition) {
	if parsed, err := arn.Parse(name); err == nil {
		if !strings.HasPrefix(parsed.Resource, aliasPrefix) {
			return name, nil
		}
		name = parsed.Resource
	}
	if strings.HasPrefix(name, aliasPrefix) {
		return n.of("kms", "key/*"), Condition{"ForAnyValue:StringEquals": {"kms:ResourceAliases": name}}
	}
	return n.of("kms", "key/"+name), nil
}

// aliasPrefix begins the name of every alias of KMS.
const aliasPrefix = "alias/"

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
