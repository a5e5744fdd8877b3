package app

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/aws"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/vending"
)

// openAWS opens the world of AWS: clients, bus, and the world on both.
func (a *App) openAWS(ctx context.Context, instance string, committed func(time.Duration, int)) (*aws.World, error) {
	c := a.config.AWS
	clients, err := a.dialAWS(ctx)
	if err != nil {
		return nil, err
	}
	var table *aws.Presence
	if c.Broker.Presence == config.PresenceTable {
		table = aws.NewPresence(clients.Dynamo, aws.PresenceTable(c.Broker.ClientID), a.now)
	}
	bus, err := a.awsBus(clients, table)
	if err != nil {
		return nil, err
	}
	prices, err := c.PriceList()
	if err != nil {
		return nil, err
	}
	config := aws.Config{
		Data: c.Data, Instance: instance, Owner: c.Broker.ClientID, Clients: clients, Registration: aws.Registration(c.Registration),
		Registry: aws.Source(c.Registry), Assets: assetLibrary(a.config),
		Group: a.config.Rotation.Group, Rerun: aws.Rerun(c.Rerun), Prices: prices,
		Packages: packagesOf(a.config),
		Presence: table,
		Job:      jobSettings(a.config),
		Pace:     aws.Pace{PerMinute: a.config.Rotation.PerMinute, MaxInFlight: a.config.Rotation.MaxInFlight},
		Issuer:   func(s *store.Store) (vending.Issuer, error) { return a.awsIssuer(clients, s) },
		// Only with a key from SSM is nothing signed outside of this process.
		ActsOutside: c.Issuer.Kind != "ssm",
		Bus:         bus, Now: a.now, Log: a.log, Committed: committed,
		Tells: a.config.Webhook.Tells, Observes: a.config.Observe,
		Sharing: aws.Sharing{Table: c.Journal.Table, Lease: c.Journal.Lease},
	}
	if config.Sharing.Table != "" {
		if config.Shared, err = a.standBy(ctx, config); err != nil {
			return nil, err
		}
	}
	return aws.Open(ctx, config)
}

func assetLibrary(all config.Config) aws.AssetLibrary {
	c := all.AWS.AssetLibrary
	headers := map[string]string{}
	for _, text := range c.Headers {
		name, value, _ := strings.Cut(text, ":")
		headers[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return aws.AssetLibrary{URL: strings.TrimSuffix(c.URL, "/"), Function: c.Function, Headers: headers, Attribute: all.Rotation.Status.Name}
}

func jobSettings(c config.Config) aws.JobSettings {
	return aws.JobSettings{InProgressTimeout: c.Job.InProgressTimeout, PerMinute: c.Rotation.PerMinute}
}

func (a *App) dialAWS(ctx context.Context) (*aws.Clients, error) {
	c := a.config.AWS
	rates, err := c.Rates()
	if err != nil {
		return nil, err
	}
	quotas, err := aws.NewQuotas(c.QuotaShare, rates, a.now)
	if err != nil {
		return nil, err
	}
	return aws.Dial(ctx, aws.Account{
		Region: c.Region, Profile: c.Profile, Role: c.Role, Endpoint: c.EndpointURL, Quotas: quotas,
	})
}

// awsIssuer returns what signs.
func (a *App) awsIssuer(clients *aws.Clients, s *store.Store) (vending.Issuer, error) {
	c := a.config.AWS.Issuer
	id := certificate.ID(c.CA)
	var key aws.KeySource
	switch c.Kind {
	case "iot":
		return aws.IoTIssuer{IoT: clients.IoT}, nil
	case "pca":
		return a.privateCA(clients, s)
	case "kms":
		key = aws.KMSKey{KMS: clients.KMS, ID: c.Key}
	default:
		key = aws.ParameterKey{SSM: clients.SSM, Name: aws.KeyParameter(id)}
	}
	return aws.NewKeyIssuer(aws.KeyIssuerConfig{CA: clients.IoT, ID: id, Key: key, Now: a.now})
}

// awsBus returns the bus, which connects when the world starts.
func (a *App) awsBus(clients *aws.Clients, table *aws.Presence) (*aws.MQTTBus, error) {
	c := a.config.AWS.Broker
	way, err := a.awsWay(clients)
	if err != nil {
		return nil, err
	}
	bus := aws.MQTTConfig{
		Way: aws.WhileLeading(way, a.mayLead), ClientID: c.ClientID, Topics: a.config.Topics(), Identity: aws.Identity(c.Identity),
		Presence: c.Presence == config.PresenceSubscribe, Table: table, Executions: !a.config.Observe, Now: a.now, Log: a.log,
	}
	if c.RuleKey.IsSet() {
		key, err := RuleKey(c.RuleKey)
		if err != nil {
			return nil, fmt.Errorf("aws.broker.rule_key: %w", err)
		}
		bus.Keys = []aws.RuleKey{key}
	}
	if a.bus, err = aws.NewMQTTBus(bus); err != nil {
		return nil, err
	}
	return a.bus, nil
}

// RuleKey reads what the topic rules share with the daemon.
func RuleKey(ref config.Secret) (aws.RuleKey, error) {
	text, err := ref.Value()
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: `certvendor setup` makes it", err)
	}
	if err != nil {
		return "", err
	}
	key := aws.RuleKey(text)
	return key, key.Validate()
}

// awsWay returns the way into the broker.
func (a *App) awsWay(clients *aws.Clients) (aws.Way, error) {
	c := a.config.AWS.Broker
	roots, err := readRoots(c.CA)
	if err != nil {
		return nil, fmt.Errorf("aws.broker.ca: %w", err)
	}
	if c.Way != "mtls" {
		return &aws.SignedWebSocket{
			Endpoint: c.Endpoint, Region: clients.Config.Region, Credentials: clients.Config.Credentials, Roots: roots, Now: a.now,
		}, nil
	}
	_, port, err := net.SplitHostPort(c.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("aws.broker.endpoint: %w", err)
	}
	way := &aws.MutualTLS{
		Address: c.Endpoint, ALPN: port == "443", Roots: roots,
		CertificateFile: c.Certificate, KeyFile: c.Key, Log: a.log,
	}
	return way, way.Check()
}

// readRoots reads what a broker is verified by; no file is the system's roots.
func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New(file + ": holds no certificate")
	}
	return pool, nil
}

// awsCalls is a collector of the calls to AWS.
type awsCalls struct{ from *aws.World }

var (
	awsCallsDesc     = prometheus.NewDesc("certvendor_aws_calls_total", "Calls to AWS, each attempt, by API.", []string{"api"}, nil)
	awsThrottledDesc = prometheus.NewDesc("certvendor_aws_throttled_total", "Calls that AWS throttled, by API.", []string{"api"}, nil)
	awsRateDesc      = prometheus.NewDesc("certvendor_aws_rate", "Calls a second that are let through now, by API.", []string{"api"}, nil)
)

func (a awsCalls) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{awsCallsDesc, awsThrottledDesc, awsRateDesc} {
		descs <- d
	}
}

func (a awsCalls) Collect(found chan<- prometheus.Metric) {
	for api, count := range a.from.Calls() {
		found <- prometheus.MustNewConstMetric(awsCallsDesc, prometheus.CounterValue, float64(count.Calls), api)
		found <- prometheus.MustNewConstMetric(awsThrottledDesc, prometheus.CounterValue, float64(count.Throttled), api)
		found <- prometheus.MustNewConstMetric(awsRateDesc, prometheus.GaugeValue, count.PerSecond, api)
	}
}

// onlyStandalone refuses what the world of AWS has no use for.
func onlyStandalone(c config.Config) error {
	if c.Backend == config.AWSBackend {
		return errNoOwnCA
	}
	return nil
}
