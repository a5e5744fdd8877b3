package aws

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
	"github.com/certvendor/certvendor/vending"
)

// KeySource fetches a CA's key, or what stands for it.
type KeySource interface {
	Key(context.Context) (SigningKey, error)
}

// SigningKey is a CA's key that may be somewhere else.
type SigningKey interface {
	// During returns a signer whose calls end when the context does.
	During(context.Context) crypto.Signer
}

// KeyIssuerConfig is what a KeyIssuer needs.
type KeyIssuerConfig struct {
	CA       CAFinder // the certificate, in AWS IoT's registry
	ID       certificate.ID
	Above    []*x509.Certificate // what is above that CA, its own issuer first; may be empty
	Key      KeySource
	Lifetime time.Duration // how long certificate and key are cached; 10 minutes
	Now      func() time.Time
}

// KeyIssuer signs with the key of a CA that is registered in AWS IoT: one from
// SSM, or one that stays in KMS. Certificate and key are fetched when they are
// first needed, cached for their lifetime, and dropped as soon as one of them
// fails. It is a vending.Issuer, safe for concurrent use.
type KeyIssuer struct {
	config KeyIssuerConfig
	cached cache[loadedCA]
}

var _ vending.Issuer = (*KeyIssuer)(nil)

// loadedCA is a CA certificate that AWS IoT would take, with its key.
type loadedCA struct {
	chain []*x509.Certificate
	key   SigningKey
}

// NewKeyIssuer returns an issuer that has fetched nothing yet.
func NewKeyIssuer(c KeyIssuerConfig) (*KeyIssuer, error) {
	if c.CA == nil || c.Key == nil || c.Now == nil {
		return nil, errors.New("issuer: CA, Key and Now must be set")
	}
	if _, err := certificate.ParseID(string(c.ID)); err != nil {
		return nil, fmt.Errorf("the id of the CA certificate in AWS IoT: %w", err)
	}
	i := &KeyIssuer{config: c}
	i.cached = newCache(cmp.Or(c.Lifetime, 10*time.Minute), c.Now, i.load)
	return i, nil
}

// Issue is described at vending.Issuer. It is not idempotent.
func (i *KeyIssuer) Issue(ctx context.Context, order certificate.Order) (certificate.Certificate, error) {
	authority, err := i.authority(ctx)
	if err != nil {
		return certificate.Certificate{}, err
	}
	c, err := authority.Issue(ctx, order)
	if err == nil {
		return c, nil
	}
	if errors.Is(err, certificate.ErrNoCA) || errors.Is(err, certificate.ErrNoCAKey) {
		i.cached.drop() // another one may be there by now
	}
	return c, refuse(nil, err)
}

// Signs is as vending.Ports has it. It makes sure of the key, and does not use
// it.
func (i *KeyIssuer) Signs(ctx context.Context) (until time.Time, err error) {
	authority, err := i.authority(ctx)
	if err != nil {
		return time.Time{}, err
	}
	return authority.Signs(ctx)
}

// Forget has certificate and key fetched anew: what was signed was refused.
func (i *KeyIssuer) Forget() { i.cached.drop() }

func (i *KeyIssuer) authority(ctx context.Context) (*issuing.Authority, error) {
	ca, err := i.cached.get(ctx)
	if err != nil {
		return nil, err
	}
	authority, err := issuing.New(issuing.Config{Chain: ca.chain, Signer: ca.key.During(ctx), Now: i.config.Now})
	if err != nil {
		i.cached.drop()
		return nil, errors.Join(certificate.ErrNoCA, err)
	}
	return authority, nil
}

func (i *KeyIssuer) load(ctx context.Context) (loadedCA, error) {
	issuer, err := RegisteredCA(ctx, i.config.CA, i.config.ID)
	if err != nil {
		return loadedCA{}, err
	}
	key, err := i.config.Key.Key(ctx)
	if err != nil {
		return loadedCA{}, refuse(certificate.ErrNoCAKey, err)
	}
	if !issuing.SameKey(key.During(ctx).Public(), issuer.PublicKey) {
		return loadedCA{}, fmt.Errorf("%w: the key is not that of CA certificate %s", certificate.ErrNoCAKey, i.config.ID)
	}
	return loadedCA{chain: append([]*x509.Certificate{issuer}, i.config.Above...), key: key}, nil
}
