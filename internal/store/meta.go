package store

import (
	"context"
	"fmt"

	"github.com/certvendor/certvendor/certificate"
)

// CACertificate is the key of Meta under which the id of the CA's certificate
// is kept; setting it is audited as the making of that CA.
const CACertificate = "issuing_ca"

// Meta returns the value kept under a key, "" if there is none.
func (s *Store) Meta(ctx context.Context, key string) (string, error) {
	var text string
	err := s.look(ctx, func(q querier) (err error) {
		text, err = meta(q, key)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read %s: %w", key, err)
	}
	return text, nil
}

// SetMeta keeps a value under a key, and forgets the key if the value is empty. Idempotent. The keys are the program's,
// "schema_version" is the store's own.
func (s *Store) SetMeta(ctx context.Context, key, text string) error {
	err := s.commit(ctx, func(t *tx) error {
		old, err := meta(t, key)
		if err != nil || old == text {
			return err
		}
		if err := setMeta(t, key, text); err != nil || key != CACertificate {
			return err
		}
		return t.audit(Event{Kind: CAMade, Certificate: certificate.ID(text)})
	})
	if err != nil {
		return fmt.Errorf("set %s: %w", key, err)
	}
	return nil
}

func meta(q querier, key string) (string, error) {
	text, _, err := single(q, value[string], `SELECT value FROM meta WHERE key = ?`, key)
	return text, err
}

func setMeta(t *tx, key, text string) error {
	if text == "" {
		return t.change(`DELETE FROM meta WHERE key = ?`, key)
	}
	return t.change(`INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, key, text)
}
