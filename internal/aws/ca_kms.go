package aws

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// DigestSigner signs with keys that never leave KMS; a *kms.Client is one.
type DigestSigner interface {
	GetPublicKey(context.Context, *kms.GetPublicKeyInput, ...func(*kms.Options)) (*kms.GetPublicKeyOutput, error)
	Sign(context.Context, *kms.SignInput, ...func(*kms.Options)) (*kms.SignOutput, error)
}

// KMSKey is a CA key in KMS: asymmetric, RSA or of a NIST curve, for signing.
type KMSKey struct {
	KMS DigestSigner
	ID  string // a key id, an alias or an ARN
}

// Key fetches the public key.
func (k KMSKey) Key(ctx context.Context) (SigningKey, error) {
	out, err := k.KMS.GetPublicKey(ctx, &kms.GetPublicKeyInput{KeyId: &k.ID})
	if err != nil {
		return nil, fmt.Errorf("get the public key of KMS key %s: %w", k.ID, err)
	}
	if out.KeyUsage != types.KeyUsageTypeSignVerify {
		return nil, fmt.Errorf("KMS key %s is for %s, not for signing", k.ID, out.KeyUsage)
	}
	public, err := x509.ParsePKIXPublicKey(out.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("KMS key %s: read the public key: %w", k.ID, err)
	}
	switch public.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
		return &kmsKey{KMSKey: k, public: public}, nil
	}
	return nil, fmt.Errorf("KMS key %s: AWS IoT takes no certificate signed by a %T", k.ID, public)
}

type kmsKey struct {
	KMSKey
	public crypto.PublicKey
}

func (k *kmsKey) During(ctx context.Context) crypto.Signer { return &kmsSigner{kmsKey: k, ctx: ctx} }

// kmsSigner is the key for the time of one call, whose context crypto.Signer
// has no place for.
type kmsSigner struct {
	*kmsKey
	ctx context.Context
}

func (s *kmsSigner) Public() crypto.PublicKey { return s.public }

// Sign has KMS sign a digest. ECDSA signatures are in DER, as x509 wants them.
func (s *kmsSigner) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	algorithm, err := kmsAlgorithm(s.public, opts)
	if err != nil {
		return nil, fmt.Errorf("KMS key %s: %w", s.ID, err)
	}
	out, err := s.KMS.Sign(s.ctx, &kms.SignInput{
		KeyId: &s.ID, Message: digest, MessageType: types.MessageTypeDigest, SigningAlgorithm: algorithm,
	})
	if err != nil {
		return nil, fmt.Errorf("sign with KMS key %s: %w", s.ID, err)
	}
	return out.Signature, nil
}

func kmsAlgorithm(public crypto.PublicKey, opts crypto.SignerOpts) (types.SigningAlgorithmSpec, error) {
	_, pss := opts.(*rsa.PSSOptions)
	var family string
	switch public.(type) {
	case *rsa.PublicKey:
		if family = "RSASSA_PKCS1_V1_5_SHA_"; pss {
			family = "RSASSA_PSS_SHA_"
		}
	case *ecdsa.PublicKey:
		family = "ECDSA_SHA_"
	}
	sizes := map[crypto.Hash]string{crypto.SHA256: "256", crypto.SHA384: "384", crypto.SHA512: "512"}
	size, ok := sizes[opts.HashFunc()]
	if family == "" || !ok {
		return "", fmt.Errorf("no way to sign %s with a %T", opts.HashFunc(), public)
	}
	return types.SigningAlgorithmSpec(family + size), nil
}
