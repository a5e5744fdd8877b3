package standalone

import (
	"context"
	"strings"
	"time"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/certificate/issuing"
)

// CRL is a signed list of what is revoked and has not expired.
type CRL struct {
	DER     []byte
	Number  int64
	Entries int
	Others  int // revoked ones that another CA has issued, which cannot be on it
	Until   time.Time
}

// CRL has an issuing CA sign a CRL that is good for so long: the one whose id
// begins with a text, or without a text the one that issues. A CA that is not
// trusted any more signs none.
func (w *World) CRL(ctx context.Context, id string, lifetime time.Duration) (CRL, error) {
	signer, err := w.ca.signerOf(id)
	if err != nil {
		return CRL{}, err
	}
	now := w.config.Now()
	list := issuing.List{Until: now.Add(lifetime)}
	made := CRL{Until: list.Until}
	var after certificate.ID
	for {
		page, err := w.store.Certificates().Revoked(ctx, now, after, 0)
		if err != nil {
			return CRL{}, err
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			after = r.ID
			if !signer.Issued(r.Certificate) {
				made.Others++
				continue
			}
			list.Entries = append(list.Entries, r)
		}
	}
	if list.Number, err = w.store.NextCRL(ctx); err != nil {
		return CRL{}, err
	}
	made.Number, made.Entries = list.Number, len(list.Entries)
	made.DER, err = signer.RevocationList(list)
	return made, err
}

// signerOf finds the authority of a trusted CA.
func (ca *CA) signerOf(id string) (*issuing.Authority, error) {
	t := ca.trust.Load()
	if id == "" {
		return t.issuing.authority, nil
	}
	for _, i := range t.trusted {
		switch {
		case !strings.HasPrefix(string(i.ID), id):
		case i.authority == nil:
			return nil, refused("the key of CA %.12s is not here: put it back as %s, and start the daemon again", i.ID, ca.keyPath(i.certificate.RawSubjectPublicKeyInfo))
		default:
			return i.authority, nil
		}
	}
	return nil, refused("CA %.64s is none of those that are trusted: `certvendor ca show` lists them", id)
}
