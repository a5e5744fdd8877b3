package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/certvendor/certvendor/campaign"
)

// Notice is something that others are to be told.
type Notice struct {
	ID       string // the same however often it is told
	Kind     string
	At       time.Time
	Detail   map[string]string
	Attempts int // that failed
}

// The kinds of notices of campaigns, which are written in the commit that
// changes the campaign.
const (
	CampaignStarted  = "campaign.started"
	CampaignResumed  = "campaign.resumed"
	CampaignGate     = "campaign.gate"
	CampaignPaused   = "campaign.paused"
	CampaignStopped  = "campaign.stopped"
	CampaignAborted  = "campaign.aborted"
	CampaignCanceled = "campaign.canceled"
	CampaignFinished = "campaign.finished"
)

// noticeOf returns the kind of the notice that a campaign has come to a state.
var noticeOf = map[campaign.State]string{
	campaign.Running: CampaignResumed, campaign.AtGate: CampaignGate, campaign.Paused: CampaignPaused,
	campaign.Stopped: CampaignStopped, campaign.Aborted: CampaignAborted, campaign.Canceled: CampaignCanceled,
	campaign.Finished: CampaignFinished,
}

// Outbox keeps what others are still to be told, over restarts.
type Outbox struct{ s *Store }

// Outbox returns what others are still to be told.
func (s *Store) Outbox() Outbox { return Outbox{s} }

// tell puts a notice into the outbox, if its kind is wanted.
func (t *tx) tell(kind string, detail map[string]string) error {
	if t.tells == nil || !t.tells(kind) {
		return nil
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails, by its contract
	text, err := json.Marshal(detail)
	if err != nil {
		return err
	}
	return t.change(`INSERT INTO outbox VALUES (?, ?, ?, ?, 0, ?)`,
		hex.EncodeToString(id), kind, nanos(t.now), string(text), nanos(t.now))
}

// Tell remembers what was told last about a topic, and puts a notice into the
// outbox if that is another. An empty kind remembers only.
func (h Outbox) Tell(ctx context.Context, topic, told, kind string, detail map[string]string) error {
	err := h.s.commit(ctx, func(t *tx) error {
		key := "told " + topic
		before, err := meta(t, key)
		if err != nil || before == told {
			return err
		}
		if err := setMeta(t, key, told); err != nil || kind == "" {
			return err
		}
		return t.tell(kind, detail)
	})
	return wrapOutbox("add to", err)
}

// Told returns what was told last about a topic.
func (h Outbox) Told(ctx context.Context, topic string) (string, error) {
	return h.s.Meta(ctx, "told "+topic)
}

// putOffMost is longer than any notice is put off. What is due still later was put
// off, or told, by a clock that ran ahead.
const putOffMost = 24 * time.Hour

// Due returns notices whose turn it is, at most so many.
func (h Outbox) Due(ctx context.Context, now time.Time, most int) (due []Notice, err error) {
	err = h.s.view(ctx, func(q querier) (err error) {
		due, err = collect(q, scanNotice, `SELECT id, kind, at, detail, attempts FROM outbox WHERE due <= ? OR due > ? ORDER BY due, id`+atMost,
			nanos(now), nanos(now.Add(putOffMost)), limit(most))
		return err
	})
	return due, wrapOutbox("read", err)
}

func scanNotice(row scanner) (n Notice, err error) {
	var at int64
	var detail string
	if err := row.Scan(&n.ID, &n.Kind, &at, &detail, &n.Attempts); err != nil {
		return n, err
	}
	n.At = moment(at)
	return n, json.Unmarshal([]byte(detail), &n.Detail)
}

// Sent takes a notice out. Idempotent.
func (h Outbox) Sent(ctx context.Context, id string) error {
	return wrapOutbox("take out of", h.s.commit(ctx, func(t *tx) error {
		return t.change(`DELETE FROM outbox WHERE id = ?`, id)
	}))
}

// Failed counts an attempt, and puts the next off.
func (h Outbox) Failed(ctx context.Context, id string, next time.Time) error {
	return wrapOutbox("put off in", h.s.commit(ctx, func(t *tx) error {
		return t.change(`UPDATE outbox SET attempts = attempts + 1, due = ? WHERE id = ?`, nanos(next), id)
	}))
}

// Expire drops what is older than that, and returns how much it was.
func (h Outbox) Expire(ctx context.Context, before time.Time) (int, error) {
	waiting, err := h.count(ctx, `at < ?`, nanos(before))
	if err != nil || waiting == 0 {
		return 0, err
	}
	n, err := commitFor(ctx, h.s, func(t *tx) (int64, error) {
		return t.exec(`DELETE FROM outbox WHERE at < ?`, nanos(before))
	})
	return int(n), wrapOutbox("drop from", err)
}

// Waiting counts the notices.
func (h Outbox) Waiting(ctx context.Context) (int, error) { return h.count(ctx, `1`) }

func (h Outbox) count(ctx context.Context, where string, args ...any) (n int, err error) {
	err = h.s.view(ctx, func(q querier) (err error) {
		n, _, err = single(q, value[int], `SELECT count(*) FROM outbox WHERE `+where, args...)
		return err
	})
	return n, wrapOutbox("count", err)
}

func wrapOutbox(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s the outbox: %w", what, err)
}
