package app

import (
	"context"
	"time"

	"github.com/rs/zerolog"

	"github.com/certvendor/certvendor/internal/aws"
	"github.com/certvendor/certvendor/internal/config"
	"github.com/certvendor/certvendor/vending"
)

// What an examination speaks of.
type (
	Finding = aws.Finding
	Verdict = aws.Verdict
	Doctor  = aws.Doctor
	// Trial and Execution are of a thing that a rotation is tried on.
	Trial     = aws.Trial
	Execution = aws.Execution
)

// The verdicts.
const (
	Healthy = aws.OK
	Failed  = aws.Failed
	Unknown = aws.Unknown
)

// OpenDoctor returns who looks at the account of a configuration. It asks nobody
// anything.
func OpenDoctor(ctx context.Context, c config.Config) (*Doctor, error) {
	if c.Backend != config.AWSBackend {
		return nil, errNotAWS
	}
	a := &App{config: c, now: time.Now, log: zerolog.Nop()}
	clients, err := a.dialAWS(ctx)
	if err != nil {
		return nil, err
	}
	way, err := a.awsWay(clients)
	if err != nil {
		return nil, err
	}
	signs, err := a.signsOf(clients)
	if err != nil {
		return nil, err
	}
	return aws.NewDoctor(aws.DoctorConfig{
		Clients: clients, Scope: scopeOf(c, clients.Config.Region, ""), Way: way, Endpoint: c.AWS.Broker.Endpoint,
		Plan: func(ctx context.Context) ([]aws.Step, error) {
			s, err := OpenSetup(ctx, c)
			if err != nil {
				return nil, err
			}
			return s.Plan(ctx)
		},
		Others: func(ctx context.Context) ([]aws.Other, error) {
			s, err := OpenSetup(ctx, c)
			if err != nil {
				return nil, err
			}
			return s.Others(ctx)
		},
		Signs: signs, Validity: c.Vending.Validity, Now: time.Now,
	}), nil
}

// signsOf returns how the issuer is asked until when it can sign, or nil. What
// it would issue is noted nowhere.
func (a *App) signsOf(clients *aws.Clients) (func(context.Context) (time.Time, error), error) {
	var issuer vending.Issuer
	issuer, err := a.awsIssuer(clients, nil)
	if err != nil {
		return nil, err
	}
	if knows, is := issuer.(interface {
		Signs(context.Context) (time.Time, error)
	}); is {
		return knows.Signs, nil
	}
	return nil, nil
}
