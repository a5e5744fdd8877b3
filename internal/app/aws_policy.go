package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/aws"
	"github.com/certvendor/certvendor/internal/config"
)

// errNotAWS says that a verb is for backend aws alone.
var errNotAWS = errors.New("only for backend aws: what runs on this machine alone asks nobody's leave")

// What policies are made for, and what they are.
type (
	Scope  = aws.Scope
	Policy = aws.Policy
)

// MostOfDevicePolicy is how many characters a policy of AWS IoT may have.
const MostOfDevicePolicy = aws.DevicePolicyLimit

// PolicyScope returns what policies are made for. Nobody is asked, unless
// neither account nor aws.role says whose account it is.
func PolicyScope(ctx context.Context, c config.Config, account string) (aws.Scope, error) {
	if c.Backend != config.AWSBackend {
		return aws.Scope{}, errNotAWS
	}
	clients, err := (&App{config: c, now: time.Now}).dialAWS(ctx)
	if err != nil {
		return aws.Scope{}, err
	}
	if role, err := arn.Parse(c.AWS.Role); err == nil {
		account = cmp.Or(account, role.AccountID)
	}
	if account == "" {
		if account, err = clients.Account(ctx); err != nil {
			return aws.Scope{}, fmt.Errorf("whose account? Name it with --account, or: %w", err)
		}
	}
	return scopeOf(c, clients.Config.Region, account), nil
}

func scopeOf(c config.Config, region, account string) aws.Scope {
	a := c.AWS
	scope := aws.Scope{
		Region: region, Account: account, Registration: aws.Registration(a.Registration),
		Registry: aws.Source(a.Registry), Assets: assetLibrary(c), Approval: c.Approval.Function,
		Group: c.Rotation.Group, Rerun: aws.Rerun(a.Rerun),
		Issuer: aws.IssuerScope{
			Kind: a.Issuer.Kind, CA: certificate.ID(a.Issuer.CA), Key: a.Issuer.Key, Role: a.Issuer.PCA.Role, FromCSR: a.Issuer.PCA.FromCSR,
		},
		Packages: packagesOf(c), Observes: c.Observe,
		Topics: c.Topics(), Identity: aws.Identity(a.Broker.Identity), ClientID: a.Broker.ClientID, Inbox: aws.Inbox,
		Presence: a.Broker.Presence == config.PresenceSubscribe, OwnCertificate: a.Broker.Way == "mtls",
		Journal: a.Journal.Table,
	}
	if a.Broker.Presence == config.PresenceTable {
		scope.Table = aws.PresenceTable(a.Broker.ClientID)
	}
	for _, ca := range a.Issuer.PCA.NamedCAs() {
		scope.Issuer.CAs = append(scope.Issuer.CAs, ca.Name)
	}
	return scope
}

func packagesOf(c config.Config) aws.PackagesConfig {
	p := c.AWS.Packages
	return aws.PackagesConfig{
		Bucket: p.Bucket, Prefix: p.Prefix, Suffix: p.Suffix,
		KMSKey: p.KMSKey, PlainBucket: p.Plain, LinkTTL: c.Vending.LinkTTL,
	}
}
