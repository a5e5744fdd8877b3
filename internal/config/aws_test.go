package config

import (
	"strings"
	"testing"
)

const soundAWS = `backend: aws
aws:
  quotas: [AttachPolicy=30]
  issuer: {ca: "` + "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" + `"}
  broker: {endpoint: example.iot.eu-west-1.amazonaws.com, rule_key: "env:KEY"}
`

func TestLoadAWS(t *testing.T) {
	got, err := Load(write(t, soundAWS), []string{"KEY=secret", "CERTVENDOR_AWS_QUOTA_SHARE=0.25"})
	if err != nil {
		t.Fatal(err)
	}
	rates, err := got.AWS.Rates()
	if err != nil || rates["AttachPolicy"] != 30 || got.AWS.QuotaShare != 0.25 {
		t.Errorf("rates %v, %v, share %g", rates, err, got.AWS.QuotaShare)
	}
	if key, err := got.AWS.Broker.RuleKey.Value(); err != nil || key != "secret" {
		t.Errorf("the rule's key: %v", err)
	}
}

func TestLoadAWSRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ from, to, want string }{
		"a share of nothing":       {"quotas:", "quota_share: 0\n  quotas:", "aws.quota_share"},
		"a quota without a number": {"AttachPolicy=30", "AttachPolicy", "aws.quotas"},
		"a price without a number": {"quotas:", "prices: [Sign=much]\n  quotas:", "aws.prices"},
		"no CA":                    {"issuer: {ca", "issuer: {kind: kms, key: k, ca: \"b\"} #", "aws.issuer.ca"},
		"an unknown issuer":        {"issuer: {ca", "issuer: {kind: paper, ca", "aws.issuer.kind"},
		"KMS without a key":        {"issuer: {ca", "issuer: {kind: kms, ca", "aws.issuer.key"},
		"no endpoint":              {"endpoint: example.iot.eu-west-1.amazonaws.com, ", "", "aws.broker.endpoint"},
		"a rule without its key":   {", rule_key: \"env:KEY\"", "", "aws.broker.rule_key"},
		"mTLS without a file":      {"rule_key", "way: mtls, rule_key", "aws.broker.certificate"},
		"an unknown registration":  {"quotas:", "registration: some\n  quotas:", "aws.registration"},
		"case_66_unknown_registry": {"quotas:", "registry: paper\n  quotas:", "aws.registry"},
		"a library nowhere":        {"quotas:", "registry: asset-library\n  quotas:", "aws.asset_library.url"},
		"a lease of a minute":      {"quotas:", "journal: {lease: 1m}\n  quotas:", "aws.journal.lease"},
		"no name of a table":       {"quotas:", "journal: {table: a/b}\n  quotas:", "aws.journal.table"},
		"who observes and shares":  {"aws:\n", "observe: true\naws:\n  journal: {table: t}\n", "aws.journal.table"},
		"names that AWS tells not": {"aws:\n", "admit: {binding: cn}\naws:\n", "admit.binding"},
		"an unknown rerun":         {"quotas:", "rerun: never\n  quotas:", "aws.rerun"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(soundAWS, tc.from, tc.to, 1)
			if text == soundAWS {
				t.Fatal("nothing was changed")
			}
			_, err := Load(write(t, text), []string{"KEY=secret"})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v does not say %q", err, tc.want)
			}
		})
	}
}
