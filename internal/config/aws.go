package config

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/vending"
)

// AWS is the world of one account and region of AWS.
type AWS struct {
	// Data is the directory of the journal, the audit and what else AWS has no
	// place for. One daemon may use it. It is made with mode 0700. Default
	// data.
	Data string `yaml:"data"`
	// Journal is how several instances share one store.
	Journal AWSJournal `yaml:"journal"`
	// Region is the region of everything but the CA. Optional: the
	// environment's, or the profile's.
	Region string `yaml:"region"`
	// Profile is a profile of the shared configuration files. Optional.
	Profile string `yaml:"profile"`
	// Role is the ARN of a role that is assumed for every call. Optional.
	Role string `yaml:"role"`
	// EndpointURL takes the place of every service's own endpoint, for a
	// double of AWS. Optional.
	EndpointURL string `yaml:"endpoint_url"`
	// QuotaShare is how much of what AWS allows an account by default
	// certvendor may use of each API, more than 0 and at most 1. Where AWS
	// throttles all the same, it takes less. Default 0.5.
	QuotaShare float64 `yaml:"quota_share"`
	// Quotas are calls a second by the name of an API ("RegisterCertificate"),
	// in place of QuotaShare of AWS's default, for an account with others:
	// "AttachPolicy=30". Optional.
	Quotas []string `yaml:"quotas"`
	// Prices are what a call to an API costs, for `campaign plan`: "Sign=0.000015",
	// or in tiers, each up to so many calls a month, "IssueCertificate=0.75:1000
	// 0.35:10000 0.001". The currency is yours. Optional: AWS's price list is not
	// known to certvendor.
	Prices []string `yaml:"prices"`
	// Registration is how new certificates become known to AWS IoT: with-ca
	// (default: the CA is registered in AWS IoT) or without-ca (it is not;
	// devices must send SNI when they connect).
	Registration string `yaml:"registration"`
	// Registry decides which devices there are: things (default: the Device
	// Registry of AWS IoT), asset-library (that of the Connected Device
	// Framework) or none (every name is a device; whoever may publish for one
	// is served).
	Registry string `yaml:"registry"`
	// AssetLibrary is how the Asset Library is reached; only for registry
	// asset-library.
	AssetLibrary AWSAssetLibrary `yaml:"asset_library"`
	// Issuer is what signs.
	Issuer AWSIssuer `yaml:"issuer"`
	// Broker is how requests come in and replies go out.
	Broker AWSBroker `yaml:"broker"`
	// Packages are key and certificate in one object of S3, for download.
	Packages AWSPackages `yaml:"packages"`
	// Rerun is how a thing gets the job again that has ended without an ack:
	// readd (default: taken out of the thing group, and added again),
	// delete-execution (what it had of the job is deleted before) or
	// job-per-campaign (it is another job: each campaign has one of its own,
	// with a thing group of its own, and so has who is added again by hand).
	Rerun string `yaml:"rerun"`
}

// AWSJournal is how several instances share the journal, and all else that is in
// the store. Without it one instance alone may serve a fleet.
type AWSJournal struct {
	// Table is a table of DynamoDB, which each commit is recorded in before it
	// counts; made if it is not there. Instances with the same table share one
	// store: one of them leads, the others stand by, each with a copy in its own
	// Data. Optional: without it the store is in Data alone.
	Table string `yaml:"table"`
	// Lease is how long nothing is heard of the instance that leads before
	// another takes over, which is done within one and a half times that. 1s to
	// 20s. Default 15s.
	Lease time.Duration `yaml:"lease"`
}

// AWSIssuer is what signs in the world of AWS.
type AWSIssuer struct {
	// Kind is ssm (default: a CA key in an SSM SecureString named
	// cdf-ca-key-<CA>), kms (an asymmetric key that stays in KMS), pca (ACM
	// Private CA) or iot (AWS IoT's own CA, whose certificates all end in 2049).
	Kind string `yaml:"kind"`
	// CA is the id of the CA's certificate in AWS IoT, 64 hex digits; for ssm
	// and kms.
	CA string `yaml:"ca"`
	// Key is the id, alias or ARN of the KMS key; only for kms.
	Key string `yaml:"key"`
	// PCA is ACM Private CA; only for pca.
	PCA AWSPCA `yaml:"pca"`
}

// AWSAssetLibrary is how the Asset Library is reached: one of URL and Function.
type AWSAssetLibrary struct {
	// URL is the base URL of its API, which is asked with a signature of the
	// daemon's credentials for execute-api.
	URL string `yaml:"url"`
	// Function is the name or ARN of its Lambda function.
	Function string `yaml:"function"`
	// Headers are sent with every request, as "Name: value". Optional.
	Headers []string `yaml:"headers"`
}

// AWSBroker is how requests come in and replies go out.
type AWSBroker struct {
	// Way is how the broker is reached: websocket (default: the credentials of
	// the calls, over port 443) or mtls (a certificate of the daemon's own).
	Way string `yaml:"way"`
	// Endpoint is AWS IoT's data endpoint; for mtls with a port, 8883 or 443.
	// The account's own is what `aws iot describe-endpoint --endpoint-type
	// iot:Data-ATS` prints.
	Endpoint string `yaml:"endpoint"`
	// Certificate is a PEM file with the daemon's certificate; only for mtls.
	Certificate string `yaml:"certificate"`
	// Key is the PEM file with the key of Certificate.
	Key string `yaml:"key"`
	// CA is a PEM file with the broker's roots. Optional: the system's.
	CA string `yaml:"ca"`
	// ClientID is the daemon's, the same at every start and nobody else's.
	// Default certvendor.
	ClientID string `yaml:"client_id"`
	// Identity is how a request's certificate is known: rule (default: a topic
	// rule republishes requests with it) or direct (it is not known; nothing
	// is retired on its word).
	Identity string `yaml:"identity"`
	// RuleKey is what the topic rule shares with the daemon: 64 hex digits. A
	// reference, as Secret describes; only for rule.
	RuleKey Secret `yaml:"rule_key"`
	// RuleRole is the ARN of the role that the topic rules act as. Optional:
	// `certvendor setup` makes one.
	RuleRole string `yaml:"rule_role"`
	// Presence is how the daemon knows which device connects with which
	// certificate: table (default: a topic rule writes it into a table, which
	// is read where it matters), subscribe (it hears of every connection, up to
	// 100 a second) or off. Also true, for subscribe, and false, for off.
	Presence Presence `yaml:"presence"`
}

// Presence is how the daemon knows who connects.
type Presence string

// The values of Presence.
const (
	PresenceTable     Presence = "table"
	PresenceSubscribe Presence = "subscribe"
	PresenceOff       Presence = "off"
)

// UnmarshalText takes a word, or what was a switch before there was a table.
func (p *Presence) UnmarshalText(text []byte) error {
	switch word := Presence(text); word {
	case PresenceTable, PresenceSubscribe, PresenceOff:
		*p = word
	case "true":
		*p = PresenceSubscribe
	case "false":
		*p = PresenceOff
	default:
		return errors.New("must be table, subscribe or off")
	}
	return nil
}

// AWSPackages are the packages of the world of AWS.
type AWSPackages struct {
	// Bucket holds an object for each device with a package, named Prefix,
	// device, Suffix. Optional: without it there are no packages.
	Bucket string `yaml:"bucket"`
	// Prefix is what an object's name begins with. Default certificates/.
	Prefix string `yaml:"prefix"`
	// Suffix is what an object's name ends with. Default .zip.
	Suffix string `yaml:"suffix"`
	// KMSKey encrypts what is put. Optional: the account's key for S3.
	KMSKey string `yaml:"kms_key"`
	// Plain leaves encryption to the bucket. Default false.
	Plain bool `yaml:"plain"`
}

func defaultAWS() AWS {
	return AWS{
		Data: "data", Journal: AWSJournal{Lease: 15 * time.Second}, QuotaShare: 0.5, Quotas: []string{}, Prices: []string{},
		Registration: "with-ca", Registry: "things",
		AssetLibrary: AWSAssetLibrary{Headers: []string{}}, Rerun: "readd",
		Issuer:   AWSIssuer{Kind: "ssm", PCA: defaultAWSPCA()},
		Broker:   AWSBroker{Way: "websocket", ClientID: "certvendor", Identity: "rule", Presence: PresenceTable},
		Packages: AWSPackages{Prefix: "certificates/", Suffix: ".zip"},
	}
}

func (c Config) validateAWS(p *problems) {
	a := c.AWS
	p.check("aws.data", a.Data != "", "must be set")
	p.check("aws.quota_share", a.QuotaShare > 0 && a.QuotaShare <= 1, "%g is not more than 0 and at most 1", a.QuotaShare)
	_, err := a.Rates()
	p.add(err)
	_, err = a.PriceList()
	p.add(err)
	p.oneOf("aws.registration", a.Registration, "with-ca", "without-ca")
	p.oneOf("aws.rerun", a.Rerun, "readd", "delete-execution", "job-per-campaign")
	if a.EndpointURL != "" {
		u, err := url.Parse(a.EndpointURL)
		p.check("aws.endpoint_url", err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "", "must be a URL")
	}
	p.check("aws.journal.lease", a.Journal.Lease >= time.Second && a.Journal.Lease <= 20*time.Second, "%s is not from 1s to 20s", a.Journal.Lease)
	p.check("aws.journal.table", a.Journal.Table == "" || !c.Observe, "must be empty where observe is true: who observes has a store of its own")
	p.check("aws.journal.table", !strings.Contains(a.Journal.Table, "/"), "must be a name")
	if c.Backend != AWSBackend {
		return
	}
	p.oneOf("aws.issuer.kind", a.Issuer.Kind, "ssm", "kms", "pca", "iot")
	if a.Issuer.Kind != "iot" && a.Issuer.Kind != "pca" {
		_, err := certificate.ParseID(a.Issuer.CA)
		p.check("aws.issuer.ca", err == nil, "must be the id of the CA's certificate in AWS IoT, 64 hex digits, as `certvendor ca register` says it")
	}
	p.check("aws.issuer.key", (a.Issuer.Kind == "kms") == (a.Issuer.Key != ""), "must be set for kind kms, and for no other")
	a.Issuer.PCA.validate(p, a.Issuer.Kind == "pca")
	a.Broker.validate(p)
	a.validateRegistry(p)
	p.check("admit.binding", c.Admit.Binding == vending.Attached, "must be attached with backend aws, which does not say what name is in a certificate")
	p.check("control.tls.certificate", c.Control.TLS.Listen == "" || c.Control.TLS.Certificate != "",
		"must be set: backend aws has no certificate of its own to show")
}

func (b AWSBroker) validate(p *problems) {
	p.oneOf("aws.broker.way", b.Way, "websocket", "mtls")
	p.check("aws.broker.endpoint", b.Endpoint != "", "must be set: `aws iot describe-endpoint --endpoint-type iot:Data-ATS` says the account's own")
	if b.Way == "mtls" {
		p.address("aws.broker.endpoint", b.Endpoint)
	}
	p.check("aws.broker.certificate", (b.Way == "mtls") == (b.Certificate != ""), "must be set for way mtls, and for no other")
	p.check("aws.broker.key", (b.Certificate == "") == (b.Key == ""), "must be set together with aws.broker.certificate")
	p.check("aws.broker.rule_role", b.RuleRole == "" || strings.HasPrefix(b.RuleRole, "arn:"), "must be an ARN")
	p.check("aws.broker.client_id", b.ClientID != "" && len(b.ClientID) <= 110, "must have 1 to 110 characters")
	p.oneOf("aws.broker.identity", b.Identity, "rule", "direct")
	p.check("aws.broker.rule_key", (b.Identity == "rule") == b.RuleKey.IsSet(), "must be set for identity rule, and for no other")
}

func (a AWS) validateRegistry(p *problems) {
	p.oneOf("aws.registry", a.Registry, "things", "asset-library", "none")
	wanted := a.Registry == "asset-library"
	p.check("aws.asset_library.url", (a.AssetLibrary.URL != "") != (a.AssetLibrary.Function != "") == wanted,
		"one of it and aws.asset_library.function must be set for registry asset-library, and for no other")
	for _, text := range a.AssetLibrary.Headers {
		name, _, ok := strings.Cut(text, ":")
		p.check("aws.asset_library.headers", ok && name != "", `%.80q: must be "Name: value"`, text)
	}
}

// Rates returns Quotas by the name of the API.
func (a AWS) Rates() (map[string]float64, error) {
	rates := map[string]float64{}
	for _, text := range a.Quotas {
		api, number, ok := strings.Cut(text, "=")
		var perSecond float64
		if _, err := fmt.Sscanf(number, "%g", &perSecond); !ok || api == "" || err != nil || perSecond <= 0 {
			return nil, fmt.Errorf(`aws.quotas: %.80q: must be an API and its calls a second, such as AttachPolicy=30`, text)
		}
		rates[api] = perSecond
	}
	return rates, nil
}

// PriceList returns Prices by the name of the API.
func (a AWS) PriceList() (map[string]campaign.Price, error) {
	prices := map[string]campaign.Price{}
	for _, text := range a.Prices {
		api, number, ok := strings.Cut(text, "=")
		price, err := campaign.ParsePrice(number)
		if !ok || api == "" || err != nil {
			return nil, fmt.Errorf(`aws.prices: %.80q: must be an API and what a call costs, such as Sign=0.000015 or IssueCertificate=0.75:1000 0.001`, text)
		}
		prices[api] = price
	}
	return prices, nil
}
