package aws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/certvendor/certvendor/vending"
)

// FunctionApprover asks a Lambda function, with the question as its event. It is
// a vending.Approver, safe for concurrent use.
type FunctionApprover struct {
	Lambda   *lambda.Client
	Function string        // its name or ARN
	Timeout  time.Duration // of one question
}

var _ vending.Approver = FunctionApprover{}

// Approve implements vending.Approver.
func (f FunctionApprover) Approve(ctx context.Context, q vending.ApprovalQuestion) (vending.Approval, error) {
	ctx, cancel := context.WithTimeout(ctx, f.Timeout)
	defer cancel()
	event, err := json.Marshal(q)
	if err != nil {
		return vending.Approval{}, err
	}
	out, err := f.Lambda.Invoke(ctx, &lambda.InvokeInput{FunctionName: &f.Function, Payload: event})
	switch {
	case err != nil:
		return vending.Approval{}, fmt.Errorf("invoke %s: %w", f.Function, err)
	case out.FunctionError != nil:
		return vending.Approval{}, fmt.Errorf("invoke %s: %w", f.Function, errors.New("the function has failed"))
	case len(out.Payload) > vending.MostApproval:
		return vending.Approval{}, fmt.Errorf("invoke %s: the answer has more than %d octets", f.Function, vending.MostApproval)
	}
	approval, err := vending.ReadApproval(out.Payload)
	if err != nil {
		return vending.Approval{}, fmt.Errorf("invoke %s: %w", f.Function, err)
	}
	return approval, nil
}
