package aws

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/certvendor/certvendor/certificate"
)

// ParameterReader reads SSM parameters; an *ssm.Client is one.
type ParameterReader interface {
	GetParameter(context.Context, *ssm.GetParameterInput, ...func(*ssm.Options)) (*ssm.GetParameterOutput, error)
}

// KeyParameter is the name under which the key of a CA that is registered in
// AWS IoT is kept, as the original has it.
func KeyParameter(ca certificate.ID) string { return "cdf-ca-key-" + string(ca) }

// ParameterKey is a CA key in an SSM SecureString: PEM, not encrypted by
// itself. It leaves SSM and is in this process's memory while it is cached.
type ParameterKey struct {
	SSM  ParameterReader
	Name string // see KeyParameter
}

// Key fetches and reads the key.
func (p ParameterKey) Key(ctx context.Context) (SigningKey, error) {
	out, err := p.SSM.GetParameter(ctx, &ssm.GetParameterInput{Name: &p.Name, WithDecryption: new(true)})
	var missing *types.ParameterNotFound
	switch {
	case errors.As(err, &missing):
		return nil, fmt.Errorf("there is no SSM parameter %s: put the CA's key there, as a SecureString: %w", p.Name, err)
	case err != nil:
		return nil, fmt.Errorf("get SSM parameter %s: %w", p.Name, err)
	case out.Parameter == nil || out.Parameter.Value == nil:
		return nil, fmt.Errorf("SSM parameter %s has no value", p.Name)
	}
	key, err := readKey([]byte(*out.Parameter.Value))
	if err != nil {
		return nil, fmt.Errorf("SSM parameter %s: %w", p.Name, err)
	}
	return heldKey{key}, nil
}

// heldKey is a key in memory.
type heldKey struct{ crypto.Signer }

func (k heldKey) During(context.Context) crypto.Signer { return k.Signer }

// readKey reads a private key in any of the forms that openssl has written one
// in. Its errors never repeat the text.
func readKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	for ; block != nil && block.Type == "EC PARAMETERS"; block, _ = pem.Decode(text) {
		_, text = pem.Decode(text) // openssl ecparam -genkey puts them before the key
	}
	if block == nil {
		return nil, errors.New("it is not a private key in PEM")
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("it holds a PEM block %q, not a private key without a passphrase", block.Type)
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, errors.New("the private key cannot be read")
	}
	return signer, nil
}
