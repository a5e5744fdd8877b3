package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/acmpca/types"

	"github.com/certvendor/certvendor/internal/aws"
	"github.com/certvendor/certvendor/internal/config"
)

// CARequest says which CA to register in AWS IoT: Certificate with the key of
// one of Key and KMSKey or with none, or PCA.
type CARequest struct {
	Certificate []byte // PEM
	Key         []byte // PEM
	KMSKey      string // an id, an alias or an ARN
	PCA         string // the ARN of a CA of ACM Private CA
	Verified    bool   // as aws.CARegistration has it
	PutKey      bool   // puts Key into SSM
	// ParameterKey is the KMS key that encrypts it there. Optional.
	ParameterKey string
}

// CARegistered is what has become of it.
type CARegistered struct {
	aws.CAState
	Parameter string // where the key is in SSM, if it was asked for
	Put       bool   // it was put there by this run
	YAML      string // what belongs into the configuration now
}

// RegisterCA registers a CA in AWS IoT and sees that it is ACTIVE. It needs no
// daemon and is idempotent. No error holds a key.
func RegisterCA(ctx context.Context, c config.Config, r CARequest) (CARegistered, error) {
	if c.Backend != config.AWSBackend {
		return CARegistered{}, errors.New("only for backend aws: backend standalone makes a CA of its own, see ca init")
	}
	clients, err := (&App{config: c, now: time.Now}).dialAWS(ctx)
	if err != nil {
		return CARegistered{}, err
	}
	voucher, key, err := r.voucher(c, clients)
	if err != nil {
		return CARegistered{}, err
	}
	is, err := aws.CARegistration{IoT: clients.IoT, CA: voucher, Verified: r.Verified, Now: time.Now}.Register(ctx)
	if err != nil {
		return CARegistered{CAState: is}, err
	}
	done := CARegistered{CAState: is, YAML: r.yaml(is)}
	if r.PutKey {
		done.Parameter = aws.KeyParameter(is.ID)
		if done.Put, err = aws.PutKey(ctx, clients.SSM, is.ID, key, r.ParameterKey); err != nil {
			return done, fmt.Errorf("CA certificate %s is registered; its key: %w", is.ID, err)
		}
	}
	return done, nil
}

// voucher returns the CA, with its key where that is in a file.
func (r CARequest) voucher(c config.Config, clients *aws.Clients) (aws.Voucher, aws.FileKey, error) {
	var key aws.FileKey
	if r.PCA != "" {
		p := c.AWS.Issuer.PCA
		client, err := aws.PrivateCAIn(clients.Config, r.PCA, p.Role)
		return aws.PrivateCAVoucher{ARN: r.PCA, Client: client, Algorithm: types.SigningAlgorithm(p.Algorithm)}, key, err
	}
	ca, err := aws.ReadCA(r.Certificate)
	if err != nil {
		return nil, key, fmt.Errorf("the CA's certificate: %w", err)
	}
	voucher := aws.KeyedCA{CA: ca}
	switch {
	case r.KMSKey != "":
		voucher.Key = aws.KMSKey{KMS: clients.KMS, ID: r.KMSKey}
	case len(r.Key) > 0:
		if key, err = aws.ReadKey(r.Key); err != nil {
			return nil, key, fmt.Errorf("the CA's key: %w", err)
		}
		voucher.Key = key
	}
	return voucher, key, nil
}

// yaml returns what belongs into the configuration.
func (r CARequest) yaml(is aws.CAState) string {
	issuer := fmt.Sprintf("{kind: ssm, ca: %q}", is.ID)
	switch {
	case r.PCA != "":
		issuer = fmt.Sprintf("{kind: pca, pca: {cas: [%q]}}", r.PCA)
	case r.KMSKey != "":
		issuer = fmt.Sprintf("{kind: kms, ca: %q, key: %q}", is.ID, r.KMSKey)
	}
	return strings.Join([]string{"aws:", "  registration: with-ca", "  issuer: " + issuer, ""}, "\n")
}
