package app

import (
	"fmt"

	"github.com/certvendor/certvendor/internal/approval"
	"github.com/certvendor/certvendor/internal/aws"
	"github.com/certvendor/certvendor/vending"
)

// approver returns who else is asked about requests, or nil.
func (a *App) approver() (vending.Approver, error) {
	c := a.config.Approval
	switch {
	case c.Function != "":
		return aws.FunctionApprover{Lambda: a.cloud.Lambda(), Function: c.Function, Timeout: c.Timeout}, nil
	case c.URL == "":
		return nil, nil
	}
	https := approval.Config{URL: c.URL, Timeout: c.Timeout}
	var err error
	if c.Token.IsSet() {
		if https.Token, err = c.Token.Value(); err != nil {
			return nil, fmt.Errorf("approval.token: %w", err)
		}
	}
	if https.Roots, err = readRoots(c.CA); err != nil {
		return nil, fmt.Errorf("approval.ca: %w", err)
	}
	return approval.New(https)
}
