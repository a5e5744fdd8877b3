package aws

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
)

// FileKey is a CA key that is in memory. It prints as nothing of the key.
type FileKey struct{ signer crypto.Signer }

// ReadKey reads a private key without a passphrase, from PEM in any of openssl's
// forms. Its errors never repeat the text.
func ReadKey(text []byte) (FileKey, error) {
	key, err := readKey(text)
	return FileKey{key}, err
}

// Key is described at KeySource.
func (k FileKey) Key(context.Context) (SigningKey, error) { return heldKey{k.signer}, nil }

// Format keeps the key out of whatever prints it.
func (k FileKey) Format(s fmt.State, _ rune) { fmt.Fprint(s, "<a CA key>") }

// standardParameter is how many characters a parameter of SSM may have, unless
// it is paid for.
const standardParameter = 4096

// PutKey writes a CA's key into SSM, as the SecureString under which the daemon
// looks for it, encrypted with a key of KMS, or with the account's own for SSM.
// Idempotent: made is false where it is there already. Another key that is there
// is left, and is an error. No error holds the key.
func PutKey(ctx context.Context, client *ssm.Client, ca certificate.ID, key FileKey, kmsKey string) (made bool, err error) {
	name := KeyParameter(ca)
	text, err := key.text()
	if err != nil {
		return false, err
	}
	if len(text) > standardParameter {
		return false, fmt.Errorf("SSM parameter %s: the key has %d characters, more than %d", name, len(text), standardParameter)
	}
	in := &ssm.PutParameterInput{
		Name: &name, Value: &text, Type: types.ParameterTypeSecureString,
		Description: new("The key of a CA that certvendor signs with."),
	}
	if kmsKey != "" {
		in.KeyId = &kmsKey
	}
	_, err = client.PutParameter(ctx, in)
	var there *types.ParameterAlreadyExists
	switch {
	case errors.As(err, &there):
		return false, sameParameter(ctx, client, name, key)
	case err != nil:
		return false, fmt.Errorf("put SSM parameter %s: %w", name, withoutKey(err, text))
	}
	return true, nil
}

func (k FileKey) text() (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.signer)
	if err != nil {
		return "", errors.New("the CA's key cannot be written") // the cause may have the key in it
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

func sameParameter(ctx context.Context, client *ssm.Client, name string, key FileKey) error {
	there, err := ParameterKey{SSM: client, Name: name}.Key(ctx)
	if err != nil {
		return err
	}
	if !issuing.SameKey(there.During(ctx).Public(), key.signer.Public()) {
		return fmt.Errorf("SSM parameter %s is there, and has another key: delete it if nobody needs it, and run this again", name)
	}
	return nil
}

// withoutKey returns an error that repeats no part of a key: AWS quotes what it
// does not like.
func withoutKey(err error, text string) error {
	said := err.Error()
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.Contains(said, line[:min(len(line), 16)]) {
			return fmt.Errorf("AWS answers %s, and quotes the key", codeOf(err))
		}
	}
	return err
}
