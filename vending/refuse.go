package vending

import (
	"context"
	"errors"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/protocol"
	"github.com/certvendor/certvendor/rotation"
)

// asError makes every failure an *Error: what nothing else has named is
// INTERNAL, except that time ran out, which another try may mend.
func asError(err error) *Error {
	var refusal *Error
	switch {
	case errors.As(err, &refusal):
		return refusal
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return later(0, err)
	}
	return reject(protocol.Internal, err)
}

// lost answers a journal that could not be written: somebody else may have
// changed the rotation, or the disk is full; either way nothing was done.
func lost(err error) *Error { return later(0, err) }

// refuseCSR passes on what is wrong with a CSR; such sentences are fit for a
// device and never repeat the CSR.
func refuseCSR(err error) *Error {
	if !errors.Is(err, certificate.ErrRequest) {
		return later(0, err) // the registry did not answer whether a name is known
	}
	return explain(protocol.CSRRejected, err.Error())
}

func refuseIssue(err error) *Error {
	chosen := (*Error)(nil)
	switch {
	case errors.As(err, &chosen): // by the port, whatever else it is
		return chosen
	case errors.Is(err, certificate.ErrNoCA):
		return reject(protocol.NoCA, err)
	case errors.Is(err, certificate.ErrNoCAKey):
		return reject(protocol.NoCAKey, err)
	}
	return reject(protocol.IssueFailed, err)
}

func refusePolicies(err error) *Error {
	if chosen := (*Error)(nil); errors.As(err, &chosen) {
		return chosen
	}
	return reject(protocol.PolicyFailed, err)
}

func refuseRegister(err error) *Error {
	chosen := (*Error)(nil)
	switch {
	case errors.As(err, &chosen):
		return chosen
	case errors.Is(err, certificate.ErrNotAttached):
		return reject(protocol.AttachFailed, err)
	case errors.Is(err, certificate.ErrNoPolicy):
		return reject(protocol.PolicyFailed, err)
	case errors.Is(err, rotation.ErrChanged):
		return lost(err)
	}
	return reject(protocol.RegisterFailed, err)
}
