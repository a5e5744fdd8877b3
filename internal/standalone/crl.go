package standalone

import (
	"context"
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

// CRL has the issuing CA sign a CRL that is good for so long.
func (w *World) CRL(ctx context.Context, lifetime time.Duration) (CRL, error) {
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
			if !w.ca.Authority().Issued(r.Certificate) {
				made.Others++
				continue
			}
			list.Entries = append(list.Entries, r)
		}
	}
	var err error
	if list.Number, err = w.store.NextCRL(ctx); err != nil {
		return CRL{}, err
	}
	made.Number, made.Entries = list.Number, len(list.Entries)
	made.DER, err = w.ca.Authority().RevocationList(list)
	return made, err
}
