package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/certvendor/certvendor/rotation"
)

// restoredKey is the key of meta under which a Restoration is kept.
const restoredKey = "restored"

// Restoration is what a store that was restored remembers of it.
type Restoration struct {
	// At is when: no sighting before it justifies a removal, for later ones
	// may have been lost.
	At time.Time `json:"at"`
	// Since is when the last row was written that the store was restored up
	// to: certificates that were issued from then until At may be missing.
	Since time.Time `json:"since"`
	// Lossy says that rows are known to be missing.
	Lossy bool `json:"lossy,omitempty"`
	// Elsewhere says that another place keeps the certificates too: what is
	// INACTIVE here may be ACTIVE there by now, and that place is believed.
	Elsewhere bool `json:"elsewhere,omitempty"`
}

// Restored returns what is remembered of the latest restore, or a zero
// Restoration.
func (s *Store) Restored(ctx context.Context) (Restoration, error) {
	var r Restoration
	err := s.look(ctx, func(q querier) (err error) {
		r, err = restoration(q)
		return err
	})
	if err != nil {
		return Restoration{}, fmt.Errorf("when the store was restored: %w", err)
	}
	return r, nil
}

func restoration(q querier) (Restoration, error) {
	var r Restoration
	text, err := meta(q, restoredKey)
	if err == nil && text != "" {
		err = json.Unmarshal([]byte(text), &r)
	}
	return r, err
}

// SetRestored writes that the store was restored. The times of r are moved to
// where no clock that was wrong can mislead: At is no earlier than anything
// on record, and Since no later than that of an earlier restore. With Lossy,
// retiring is frozen in the same commit, with the reason. The detail is for the
// audit.
func (s *Store) SetRestored(ctx context.Context, r Restoration, why string, detail map[string]string) error {
	err := s.commit(ctx, func(t *tx) error {
		if err := t.onRecord(&r); err != nil {
			return err
		}
		text, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if err := t.againRestored(string(text)); err != nil {
			return err
		}
		// Whom they have let in since is lost: a person looks first.
		if err := t.change(`UPDATE campaigns SET state = 'paused', why = 'the store was restored', version = version + 1
			WHERE state IN ('running', 'gate')`); err != nil {
			return err
		}
		e := Event{Kind: StoreRestored, Detail: map[string]string{"restored": string(text), "why": why}}
		for name, text := range detail {
			e.Detail[name] = text
		}
		if err := t.audit(e); err != nil || !r.Lossy {
			return err
		}
		return freezeRetiring(t, why)
	})
	if err != nil {
		return fmt.Errorf("write that the store was restored: %w", err)
	}
	return nil
}

// againRestored enters a Restoration. Where another place keeps the certificates
// too, INACTIVE is that place's word from now on, and what is revoked is told to it
// again: it may not have heard.
func (t *tx) againRestored(text string) error {
	var r Restoration
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return err
	}
	if err := setMeta(t, restoredKey, text); err != nil || !r.Elsewhere {
		return err
	}
	if err := t.change(`UPDATE certificates SET elsewhere = 1 WHERE standing = 'INACTIVE'`); err != nil {
		return err
	}
	return t.change(`INSERT INTO unsettled (certificate, device, since) SELECT id, '', ?1 FROM certificates WHERE standing = 'REVOKED' AND not_after > ?2 ORDER BY id
		ON CONFLICT (certificate) DO NOTHING`, nanos(r.At), r.At.Unix())
}

// onRecord puts At behind everything on record.
func (t *tx) onRecord(r *Restoration) error {
	newest, err := value[int64](t.row(`SELECT max((SELECT coalesce(max(seen), 0) FROM holdings),
		(SELECT coalesce(max(at), 0) FROM audit))`))
	if err != nil {
		return err
	}
	if at := moment(newest); at.After(r.At) {
		r.At = at
	}
	earlier, err := restoration(t)
	if err == nil && !earlier.At.IsZero() && earlier.Since.Before(r.Since) {
		r.Since = earlier.Since
	}
	return err
}

func freezeRetiring(t *tx, why string) error {
	_, err := freeze(t, func(f *rotation.Freeze) { f.StopRetiring(why, t.now) })
	return err
}

// frozenIn returns what an event of Brakes says is frozen, as it is kept.
func frozenIn(e Event) (string, error) {
	f := rotation.Freeze{Why: e.Detail["why"], At: e.At}
	var errs [2]error
	f.Vending, errs[0] = strconv.ParseBool(e.Detail["vending"])
	f.Retiring, errs[1] = strconv.ParseBool(e.Detail["retiring"])
	text, err := json.Marshal(f)
	return string(text), errors.Join(errs[0], errs[1], err)
}
