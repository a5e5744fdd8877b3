package aws

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/vending"
)

// AWS's names for what went wrong. They are compared instead of the SDK's
// types because not every operation's model has every error that it returns.
const (
	notFound       = "ResourceNotFoundException"
	alreadyExists  = "ResourceAlreadyExistsException"
	deleteConflict = "DeleteConflictException"
	limitExceeded  = "LimitExceededException"
	invalidRequest = "InvalidRequestException"
)

// codeOf returns AWS's name for an error, or "".
func codeOf(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

func isNotFound(err error) bool {
	switch codeOf(err) {
	case notFound, "NotFound", "NoSuchKey":
		return true
	}
	return false
}

var throttles = retry.ThrottleErrorCode{Codes: retry.DefaultThrottleErrorCodes}

// isThrottle reports whether AWS refused a call because there were too many.
// A limit of how many of something there may be is none, although the SDK
// counts it among them.
func isThrottle(err error) bool {
	return err != nil && codeOf(err) != limitExceeded && throttles.IsErrorThrottle(err).Bool()
}

// errQuota says that a call would not have got its turn in time.
var errQuota = errors.New("no turn in time, within the share of the quota")

// isPassing reports whether the same call may succeed after a while.
func isPassing(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, errQuota) || isThrottle(err) {
		return true
	}
	var network net.Error
	var answer *smithyhttp.ResponseError
	switch {
	case errors.As(err, &answer) && answer.HTTPStatusCode() != 0: // the SDK has one too where nothing came back
		return answer.HTTPStatusCode() >= http.StatusInternalServerError
	case errors.As(err, &network):
		return true
	}
	var sent *smithyhttp.RequestSendError
	return errors.As(err, &sent)
}

// passingWait is how long a device is told to wait when AWS is busy.
const passingWait = 5 * time.Second

// refuse gives a failed call the words that vending answers with: to try again
// later where that may help, and otherwise kind, which names what could not be
// done.
func refuse(kind, err error) error {
	if isPassing(err) {
		return tryLater(err)
	}
	if kind == nil {
		return err
	}
	return fmt.Errorf("%w: %w", kind, err)
}

func tryLater(err error) error {
	return &vending.Error{Reason: protocol.TryAgainLater, Wait: passingWait, Err: err}
}
