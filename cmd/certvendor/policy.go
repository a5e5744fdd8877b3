package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/spf13/cobra"

	"github.com/certvendor/certvendor/internal/app"
)

const policyText = `

It needs the configuration and no daemon. --account, or the account of aws.role,
says whose ARNs are written; without either, AWS is asked who calls.`

func (c *cli) policy() *cobra.Command {
	var account string
	var trust bool
	device := c.printPolicy(&account, "device", "Print the AWS IoT policy of devices' certificates",
		`Print the AWS IoT policy of devices' certificates: each speaks as its thing, in the
topics of the protocol and of its jobs.`, devicePolicy)
	daemon := c.printPolicy(&account, "daemon", "Print the IAM policy of whoever the daemon calls AWS as",
		`Print the IAM policy of whoever the daemon calls AWS as: every action that the
daemon calls with this configuration, and no other. With aws.role, it is the policy of
that role.`, func(s app.Scope) (app.Policy, error) { return s.DaemonPolicy(), nil })
	broker := c.printPolicy(&account, "broker", "Print the AWS IoT policy of the daemon's own certificate, for aws.broker.way mtls",
		`Print the AWS IoT policy of the certificate that the daemon shows the broker, for
aws.broker.way mtls. With websocket, what policy daemon prints has it.`,
		func(s app.Scope) (app.Policy, error) { return s.BrokerPolicy(), nil })
	rule := c.printPolicy(&account, "rule", "Print the IAM policy of the role that the topic rules act in",
		`Print the IAM policy of the role that the topic rules act in, or with --trust who may
act in it.`, func(s app.Scope) (app.Policy, error) {
			if trust {
				return s.RuleTrust(), nil
			}
			if p := s.RulePolicy(); len(p.Statement) > 0 {
				return p, nil
			}
			return app.Policy{}, errors.New("no topic rule does anything with this configuration: aws.broker.identity is direct, and aws.broker.presence not table")
		})
	rule.Flags().BoolVar(&trust, "trust", false, "print the role's trust policy")
	all := group("policy", "The policies that backend aws needs", device, daemon, broker, rule)
	all.PersistentFlags().StringVar(&account, "account", "", "the number of the AWS account")
	return all
}

func devicePolicy(s app.Scope) (app.Policy, error) {
	p := s.DevicePolicy()
	if size := p.Size(); size > app.MostOfDevicePolicy {
		return p, fmt.Errorf("the policy has %d characters, and AWS IoT takes %d: shorten mqtt.topics", size, app.MostOfDevicePolicy)
	}
	return p, nil
}

func (c *cli) printPolicy(account *string, name, short, long string, of func(app.Scope) (app.Policy, error)) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Long: long + policyText, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if *account != "" && !accountForm.MatchString(*account) {
				return fmt.Errorf("policy %s: --account: an AWS account's number has twelve digits", name)
			}
			cfg, err := c.load()
			if err != nil {
				return err
			}
			scope, err := app.PolicyScope(cmd.Context(), cfg, *account)
			if err != nil {
				return fmt.Errorf("policy %s: %w", name, err)
			}
			p, err := of(scope)
			if err != nil {
				return fmt.Errorf("policy %s: %w", name, err)
			}
			return c.printDocument(p)
		},
	}
}

var accountForm = regexp.MustCompile(`^\d{12}$`)

// printDocument prints what is JSON either way: on one line, or for people.
func (c *cli) printDocument(value any) error {
	if c.json {
		return c.printJSON(value)
	}
	encoder := json.NewEncoder(c.out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}
