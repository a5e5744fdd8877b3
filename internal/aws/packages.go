package aws

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/registry"
	"github.com/certvendor/certvendor/vending"
)

// PackagesConfig says where in S3 packages are. The object of a device is
// Prefix + device + Suffix.
type PackagesConfig struct {
	Bucket string // empty: there are no packages
	Prefix string
	Suffix string
	// KMSKey encrypts what is put; empty is the key of the account for S3.
	KMSKey string
	// PlainBucket leaves encryption to the bucket.
	PlainBucket bool
	// LinkTTL is how long a link works, unless the credentials that signed it
	// end before.
	LinkTTL time.Duration
}

// MaxPackage is the most octets a package may have, as in the standalone world.
const MaxPackage = 1 << 20

// certificateKey is the metadata that names a package's certificate. S3 makes
// its names lower-case; who else stores them may not.
const certificateKey = "certificateid"

// Packages are objects of S3, one a device. What was used is in the store. It
// is a vending.Packages.
type Packages struct {
	config      PackagesConfig
	rows        store.Packages
	s3          *s3.Client
	presign     *s3.PresignClient
	credentials awssdk.CredentialsProvider
	now         func() time.Time
	// unknown is told of a package whose certificate the store does not know.
	unknown func(context.Context, registry.DeviceID, certificate.ID) error
}

var _ vending.Packages = (*Packages)(nil)

// Find implements vending.Packages. An object that may not be read, or S3 that
// does not answer, is not taken for no package.
func (p *Packages) Find(ctx context.Context, id registry.DeviceID) (vending.Package, error) {
	c, err := p.named(ctx, id)
	if errors.Is(err, vending.ErrNoPackage) {
		return p.used(ctx, id, err)
	}
	if err != nil {
		return vending.Package{}, fmt.Errorf("find package of device %s: %w", id, err)
	}
	spent, err := p.rows.IsSpent(ctx, id, c)
	if err != nil {
		return vending.Package{}, err
	}
	return vending.Package{Certificate: c, Spent: spent}, p.unknown(ctx, id, c)
}

// used returns the package whose object is gone because it was used, or why
// there is none.
func (p *Packages) used(ctx context.Context, id registry.DeviceID, why error) (vending.Package, error) {
	row, err := p.rows.Find(ctx, id)
	switch {
	case errors.Is(err, store.ErrNoPackage), err == nil && row.Spent.IsZero():
		return vending.Package{}, fmt.Errorf("find package of device %s: %w", id, why)
	case err != nil:
		return vending.Package{}, err
	}
	return vending.Package{Certificate: row.Certificate, Spent: true}, nil
}

// named returns the certificate that the metadata of a device's object names.
func (p *Packages) named(ctx context.Context, id registry.DeviceID) (certificate.ID, error) {
	if p.config.Bucket == "" {
		return "", vending.ErrNoPackage
	}
	head, err := p.s3.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &p.config.Bucket, Key: p.key(id)})
	switch {
	case isNotFound(err):
		return "", vending.ErrNoPackage
	case isDenied(err):
		return "", fmt.Errorf("s3://%s/%s may not be read: the daemon needs s3:GetObject on it, and s3:ListBucket on the bucket: %w",
			p.config.Bucket, *p.key(id), err)
	case err != nil:
		return "", fmt.Errorf("head s3://%s/%s: %w", p.config.Bucket, *p.key(id), err)
	}
	for name, text := range head.Metadata {
		if strings.EqualFold(name, certificateKey) {
			if c, err := certificate.ParseID(strings.ToLower(strings.TrimSpace(text))); err == nil {
				return c, nil
			}
		}
	}
	return "", vending.ErrNoCertificateID
}

func isDenied(err error) bool {
	var answer *smithyhttp.ResponseError
	return errors.As(err, &answer) && answer.HTTPStatusCode() == http.StatusForbidden
}

func (p *Packages) key(id registry.DeviceID) *string {
	return new(p.config.Prefix + string(id) + p.config.Suffix)
}

// leastLink is how long a link must work to be worth anything.
const leastLink = 10 * time.Second

// Link implements vending.Packages: a presigned GET. It ends with the
// credentials that signed it.
func (p *Packages) Link(ctx context.Context, id registry.DeviceID, c certificate.ID) (string, error) {
	named, err := p.named(ctx, id)
	if err == nil && named != c {
		err = fmt.Errorf("the object is that of certificate %s: %w", named, vending.ErrNoPackage)
	}
	if err != nil {
		return "", fmt.Errorf("link to package of device %s: %w", id, err)
	}
	ttl, err := p.ttl(ctx)
	if err != nil {
		return "", fmt.Errorf("link to package of device %s: %w", id, err)
	}
	request, err := p.presign.PresignGetObject(ctx,
		&s3.GetObjectInput{Bucket: &p.config.Bucket, Key: p.key(id)}, s3.WithPresignExpires(ttl))
	if err != nil {
		return "", fmt.Errorf("link to package of device %s: %w", id, err)
	}
	return request.URL, nil
}

// ttl returns how long a link signed now can work.
func (p *Packages) ttl(ctx context.Context) (time.Duration, error) {
	own, err := p.credentials.Retrieve(ctx)
	if err != nil {
		return 0, fmt.Errorf("credentials: %w", err)
	}
	ttl := p.config.LinkTTL
	if own.CanExpire {
		ttl = min(ttl, own.Expires.Sub(p.now()))
	}
	if ttl < min(leastLink, p.config.LinkTTL) {
		return 0, errors.New("the credentials end in a moment")
	}
	return ttl, nil
}

// Put implements vending.Packages. The object takes the place of the device's
// former one in one step.
func (p *Packages) Put(ctx context.Context, id registry.DeviceID, c certificate.ID, zip []byte) error {
	spent, err := p.rows.IsSpent(ctx, id, c)
	if err != nil {
		return err
	}
	switch {
	case p.config.Bucket == "":
		return fmt.Errorf("put package of device %s: aws.packages.bucket is not set", id)
	case len(zip) > MaxPackage:
		return fmt.Errorf("put package of device %s: %d octets, more than %d", id, len(zip), MaxPackage)
	case spent:
		return fmt.Errorf("put package of device %s: that of certificate %s was used or replaced, create a new one", id, c)
	}
	former, err := p.rows.Find(ctx, id)
	if err != nil && !errors.Is(err, store.ErrNoPackage) {
		return err
	}
	if _, err := p.s3.PutObject(ctx, p.object(id, c, zip)); err != nil {
		return fmt.Errorf("put package of device %s: %w", id, err)
	}
	if former.Certificate != "" && former.Certificate != c {
		if err := p.rows.Spend(ctx, id, former.Certificate); err != nil {
			return err
		}
	}
	return p.rows.Put(ctx, id, c)
}

func (p *Packages) object(id registry.DeviceID, c certificate.ID, zip []byte) *s3.PutObjectInput {
	in := &s3.PutObjectInput{
		Bucket: &p.config.Bucket, Key: p.key(id), Body: bytes.NewReader(zip), ContentType: new("application/zip"),
		Metadata: map[string]string{certificateKey: string(c)},
	}
	if !p.config.PlainBucket {
		in.ServerSideEncryption = types.ServerSideEncryptionAwsKms
		if p.config.KMSKey != "" {
			in.SSEKMSKeyId = &p.config.KMSKey
		}
	}
	return in
}

// Spend implements vending.Packages. Remembered first: an object that could not
// be deleted is not handed out again.
func (p *Packages) Spend(ctx context.Context, id registry.DeviceID, c certificate.ID) error {
	named, err := p.named(ctx, id)
	ours := err == nil && named == c
	if err != nil && !errors.Is(err, vending.ErrNoPackage) && !errors.Is(err, vending.ErrNoCertificateID) {
		return fmt.Errorf("spend package of device %s: %w", id, err)
	}
	if ours { // it may have been put by somebody else
		if err := p.rows.Put(ctx, id, c); err != nil {
			return err
		}
	}
	if err := p.rows.Spend(ctx, id, c); err != nil && !errors.Is(err, store.ErrNoPackage) {
		return err
	}
	if !ours {
		return nil
	}
	_, err = p.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &p.config.Bucket, Key: p.key(id)})
	if err = unlessGone(err); err != nil {
		return fmt.Errorf("delete package of device %s: %w", id, err)
	}
	return nil
}

// clocked signs links by the world's clock.
type clocked struct {
	signer s3.HTTPPresignerV4
	now    func() time.Time
}

func (c clocked) PresignHTTP(
	ctx context.Context, credentials awssdk.Credentials, r *http.Request,
	payloadHash, service, region string, _ time.Time, options ...func(*v4.SignerOptions),
) (string, http.Header, error) {
	return c.signer.PresignHTTP(ctx, credentials, r, payloadHash, service, region, c.now(), options...)
}

// presignClient returns a client that signs by a clock.
func presignClient(client *s3.Client, now func() time.Time) *s3.PresignClient {
	signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }) // as S3 wants it
	return s3.NewPresignClient(client, func(o *s3.PresignOptions) { o.Presigner = clocked{signer, now} })
}
