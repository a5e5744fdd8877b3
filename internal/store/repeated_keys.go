package store

import (
	"context"
	"fmt"

	"github.com/certvendor/certvendor/certificate"
)

// RepeatedKeys returns the ids of keys that more than one certificate was made
// for, whatever became of these, a page at a time by id. It reads one index, on
// from where the page before ended.
func (h Certificates) RepeatedKeys(ctx context.Context, after certificate.KeyID, most int) ([]certificate.KeyID, error) {
	var keys []certificate.KeyID
	err := h.s.view(ctx, func(q querier) (err error) {
		keys, err = collect(q, value[certificate.KeyID], `SELECT key FROM certificates INDEXED BY certificates_key WHERE key > ?
			GROUP BY key HAVING count(*) > 1 ORDER BY key`+atMost, after, limit(most))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("keys of several certificates: %w", err)
	}
	return keys, nil
}
