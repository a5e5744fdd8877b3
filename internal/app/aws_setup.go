package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/aws"
	"github.com/certvendor/certvendor/internal/config"
)

// AccountSetup is what an AWS account needs for the daemon of a configuration,
// and the file with the topic rules' key beside it. It needs no daemon.
type AccountSetup struct {
	*aws.Setup
	keyFile string // that is to be made; empty: there is a key, or none is needed
	kept    string // the key's file, if it is there
	key     aws.RuleKey
}

// What the setup of an account speaks of.
type (
	SetupStep  = aws.Step
	SetupDo    = aws.Do
	SetupOther = aws.Other
)

// What becomes of a resource that is not changed.
const (
	SetupKeep  = aws.DoKeep
	SetupLeave = aws.DoLeave
)

// keyKind is of the key that the topic rules share with the daemon.
const keyKind aws.Kind = "rule key"

// OpenSetup asks AWS whose account it is, and changes nothing.
func OpenSetup(ctx context.Context, c config.Config) (*AccountSetup, error) {
	if c.Backend != config.AWSBackend {
		return nil, errors.New("backend standalone needs no setup: the daemon makes everything when it starts")
	}
	a := &App{config: c, now: time.Now, log: zerolog.Nop()}
	clients, err := a.dialAWS(ctx)
	if err != nil {
		return nil, err
	}
	s := &AccountSetup{}
	if err := s.readKey(c.AWS.Broker.RuleKey); err != nil {
		return nil, err
	}
	b := c.AWS.Broker
	settings := aws.SetupConfig{
		Clients: clients, Owner: b.ClientID, Topics: c.Topics(), Identity: aws.Identity(b.Identity), Key: s.key,
		Role: b.RuleRole, Job: a.job(), Settings: jobSettings(c),
	}
	if b.Presence == config.PresenceTable {
		settings.Table = aws.PresenceTable(b.ClientID)
	}
	s.Setup, err = aws.NewSetup(ctx, settings)
	return s, err
}

// readKey reads the key, or makes one in memory where its file is not there.
func (s *AccountSetup) readKey(ref config.Secret) error {
	text, err := ref.Value()
	if errors.Is(err, fs.ErrNotExist) && ref.File() != "" {
		s.key, s.keyFile = aws.NewRuleKey(), ref.File()
		return nil
	}
	if err != nil {
		return fmt.Errorf("aws.broker.rule_key: %w", err)
	}
	s.key, s.kept = aws.RuleKey(text), ref.File()
	if !ref.IsSet() {
		return nil
	}
	if err := s.key.Validate(); err != nil {
		return fmt.Errorf("aws.broker.rule_key: %w", err)
	}
	return nil
}

// Plan is that of aws.Setup, behind the key's file.
func (s *AccountSetup) Plan(ctx context.Context) ([]aws.Step, error) {
	steps, err := s.Setup.Plan(ctx)
	if s.keyFile == "" || err != nil {
		return steps, err
	}
	made := aws.Step{Resource: aws.Resource{Kind: keyKind, Name: s.keyFile}, Do: aws.DoCreate}
	return append([]aws.Step{made}, steps...), nil
}

// Carry is that of aws.Setup. The file with the key is written first: a rule with
// a key that nobody else has would be of no use.
func (s *AccountSetup) Carry(ctx context.Context, plan []aws.Step, done func(aws.Step)) error {
	if len(plan) == 0 || plan[0].Kind != keyKind {
		return s.Setup.Carry(ctx, plan, done)
	}
	if err := aws.Refused(plan); err != nil {
		return err
	}
	if err := writeKey(s.keyFile, s.key); err != nil {
		return fmt.Errorf("aws.broker.rule_key: %w", err)
	}
	done(plan[0])
	return s.Setup.Carry(ctx, plan[1:], done)
}

// PlanRemoval is that of aws.Setup, with the key's file, which stays.
func (s *AccountSetup) PlanRemoval(ctx context.Context) ([]aws.Step, error) {
	steps, err := s.Setup.PlanRemoval(ctx)
	if s.kept == "" || err != nil {
		return steps, err
	}
	stays := aws.Step{Resource: aws.Resource{Kind: keyKind, Name: s.kept}, Do: aws.DoLeave, Why: "of no use without the rules: delete it yourself"}
	return append(steps, stays), nil
}

// writeKey makes a file that only its owner can read, and overwrites none.
func writeKey(path string, key aws.RuleKey) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteString(string(key) + "\n")
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	directory, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}
