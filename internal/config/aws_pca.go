package config

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/certvendor/certvendor/certificate"
)

// AWSPCA is ACM Private CA.
type AWSPCA struct {
	// CAs may sign; the first does for devices that ask for none. Each is an
	// ARN, or alias=ARN, where the alias is what a device may ask for.
	CAs []string `yaml:"cas"`
	// IoTCAs are what devices may name as AWS IoT's CA, which the original's
	// firmware must: each an id of 64 hex digits, or alias=id.
	IoTCAs []string `yaml:"iot_cas"`
	// Role is the ARN of a role that is assumed for the CA, where it is another
	// account's. Optional.
	Role string `yaml:"role"`
	// FromCSR has the CA take subject and alternative names from the CSR, for
	// one whose owner allows no template that passes them on. Default false.
	FromCSR bool `yaml:"from_csr"`
	// Algorithm is how the CA signs, such as SHA384WITHECDSA. Optional: the
	// usual for the CA's key.
	Algorithm string `yaml:"algorithm"`
	// CertInfo lets devices say what is in their subject besides their name.
	// Default true.
	CertInfo bool `yaml:"cert_info"`
	// MaxDays is the longest life that a device may ask for, in days. Default
	// 1095; 0: none may be asked for.
	MaxDays int `yaml:"max_days"`
	// Patience is how long a request waits for its certificate, before it is
	// told to come again. Default 15s.
	Patience time.Duration `yaml:"patience"`
}

func defaultAWSPCA() AWSPCA {
	return AWSPCA{CAs: []string{}, IoTCAs: []string{}, CertInfo: true, MaxDays: 1095, Patience: 15 * time.Second}
}

// NamedCA is a CA with the alias that devices may ask for it by, or none.
type NamedCA struct{ Alias, Name string }

// named reads alias=name, or a name alone.
func named(text string) NamedCA {
	if alias, name, ok := strings.Cut(text, "="); ok {
		return NamedCA{Alias: alias, Name: name}
	}
	return NamedCA{Name: text}
}

// NamedCAs returns CAs, with their aliases.
func (p AWSPCA) NamedCAs() []NamedCA { return allNamed(p.CAs) }

// NamedIoTCAs returns IoTCAs, with their aliases.
func (p AWSPCA) NamedIoTCAs() []NamedCA { return allNamed(p.IoTCAs) }

func allNamed(texts []string) []NamedCA {
	all := make([]NamedCA, len(texts))
	for i, text := range texts {
		all[i] = named(text)
	}
	return all
}

var (
	aliasForm = regexp.MustCompile(`^[A-Za-z0-9_-]{0,64}$`)
	pcaForm   = regexp.MustCompile(`^arn:[a-z-]+:acm-pca:[a-z0-9-]+:\d{12}:certificate-authority/[0-9a-f-]+$`)
)

func (p AWSPCA) validate(problems *problems, isUsed bool) {
	for _, ca := range p.NamedCAs() {
		problems.check("aws.issuer.pca.cas", aliasForm.MatchString(ca.Alias) && pcaForm.MatchString(ca.Name), "%.200q is neither the ARN of a CA of ACM PCA nor alias=ARN", ca.Name)
	}
	for _, ca := range p.NamedIoTCAs() {
		_, err := certificate.ParseID(ca.Name)
		problems.check("aws.issuer.pca.iot_cas", aliasForm.MatchString(ca.Alias) && err == nil, "%.80q is neither an id of 64 hex digits nor alias=id", ca.Name)
	}
	problems.add(repeated("aws.issuer.pca.cas", p.NamedCAs()))
	problems.check("aws.issuer.pca.cas", (len(p.CAs) > 0) == isUsed, "must be set for kind pca, and for no other")
	problems.check("aws.issuer.pca.max_days", p.MaxDays >= 0, "%d is less than zero", p.MaxDays)
	problems.check("aws.issuer.pca.patience", p.Patience > 0, "must be more than zero")
}

func repeated(key string, all []NamedCA) error {
	seen := map[string]bool{}
	for _, ca := range all {
		alias := strings.ToUpper(ca.Alias)
		if seen[ca.Name] || alias != "" && seen[alias] {
			return fmt.Errorf("%s: %.200q, or its alias, is there twice", key, ca.Name)
		}
		seen[ca.Name], seen[alias] = true, true
	}
	return nil
}
