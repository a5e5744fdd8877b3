package store

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/certvendor/certvendor/campaign"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/registry"
)

const memberColumns = `m.device, m.place, m.wave, m.standing, m.why, m.zone, m.added, m.since, m.before, m.expires`

func scanMember(row scanner) (campaign.Member, error) {
	var s campaign.Sight
	err := scanMemberInto(row, &s)
	return s.Member, err
}

func scanMemberInto(row scanner, s *campaign.Sight, more ...any) error {
	m := &s.Member
	var added, since, expires int64
	into := []any{&m.Device, &m.Place, &m.Wave, &m.Standing, &m.Why, &m.Zone, &added, &since, &m.Before, &expires}
	err := row.Scan(append(into, more...)...)
	m.Added, m.Since = moment(added), moment(since)
	if expires != 0 {
		m.Expires = time.Unix(expires, 0).UTC()
	}
	return err
}

// sightColumns are what can be seen of a member besides its own row: its newest
// rotation since it was let in, the newest execution of its job since then, what
// it was seen on last, and what the registry and the group say. What it had of its
// job at a time that is yet to come, which is asked for first, it had before, from a
// clock that ran ahead.
const sightColumns = memberColumns + `,
	coalesce(r.number, 0), coalesce(r.state, ''), coalesce(r.certificate, ''), coalesce(r.vended_at, 0), coalesce(r.proven_at, 0),
	coalesce((SELECT e.status` + newestJobOf + `), ''), coalesce((SELECT e.updated` + newestJobOf + `), 0),
	coalesce((SELECT iif(` + asked + `, 2, 1) FROM members g WHERE g.device = m.device), 0),
	EXISTS (SELECT 1 FROM rotations p WHERE p.device = m.device AND max(p.proven_at, p.acked_at) >= m.added),
	EXISTS (SELECT 1 FROM campaign_members o JOIN campaigns c ON c.name = o.campaign
		WHERE o.device = m.device AND o.campaign <> m.campaign AND o.standing IN ('added', 'vended') AND c.ended = 0),
	coalesce((SELECT d.blocked FROM devices d WHERE d.id = m.device), -1), m.look`

const newestJobOf = ` FROM executions e WHERE e.device = m.device AND e.queued >= m.added AND e.queued <= ?1
	ORDER BY e.queued DESC LIMIT 1`

func scanSight(row scanner) (s campaign.Sight, err error) {
	var vended, proven, jobAt int64
	var grouped, blocked int
	r := &s.Rotation
	err = scanMemberInto(row, &s, &r.Number, &r.State, &r.Certificate, &vended, &proven, &s.Job, &jobAt, &grouped, &s.Rotated, &s.Wanted, &blocked, &s.Turn.Look)
	r.VendedAt, r.ProvenAt = moment(vended), moment(proven)
	s.JobAt, s.Grouped, s.Asked = moment(jobAt), grouped > 0, grouped == 2
	s.Blocked, s.Removed, s.Turn.Place = blocked == 1, blocked < 0, s.Place
	return s, err
}

// InProgress implements campaign.Roll.
func (h Campaigns) InProgress(ctx context.Context, name string, after, most int) ([]campaign.Sight, error) {
	return h.sights(ctx, name, "campaign_members_working", `m.place > ? AND `+inProgress+` ORDER BY m.place`, after, limit(most))
}

// Due implements campaign.Watch.
func (h Campaigns) Due(ctx context.Context, name string, now time.Time, after campaign.Turn, most int) ([]campaign.Sight, error) {
	return h.sights(ctx, name, "campaign_members_look", `(m.look, m.place) > (?, ?) AND m.look <= ? AND `+inProgress+`
		ORDER BY m.look, m.place`, after.Look, after.Place, nanos(now), limit(most))
}

const inProgress = `m.standing IN ('added', 'vended', 'proven')`

// sights reads what can be seen of the members that an index leads to.
func (h Campaigns) sights(ctx context.Context, name, index, which string, args ...any) ([]campaign.Sight, error) {
	var page []campaign.Sight
	err := h.s.view(ctx, func(q querier) (err error) {
		page, err = collect(q, scanSight, `SELECT `+sightColumns+`
			FROM campaign_members m INDEXED BY `+index+`
			LEFT JOIN rotations r ON r.device = m.device AND r.number > m.before
				AND r.number = (SELECT max(number) FROM rotations WHERE device = m.device)
			WHERE m.campaign = ? AND `+which+atMost, append([]any{nanos(h.s.now()), name}, args...)...)
		if err != nil {
			return err
		}
		for i := range page {
			if err := h.lastSeen(q, &page[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return page, wrapCampaign("look at", name, err)
}

// Wake implements campaign.Watch.
func (h Campaigns) Wake(ctx context.Context, devices []registry.DeviceID) error {
	err := h.s.commit(ctx, func(t *tx) error {
		for _, id := range devices {
			if err := wake(t, id); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("have %d devices looked at: %w", len(devices), err)
	}
	return nil
}

// wake has a device looked at; the triggers do the same.
func wake(t *tx, id registry.DeviceID) error {
	return t.change(`UPDATE campaign_members SET look = min(look, 0) - 1
		WHERE device = ? AND standing IN ('added', 'vended', 'proven')`, id)
}

// overdue are the members that were let in long enough ago to have been heard of.
const overdue = `m.campaign = ?3 AND m.standing = 'added' AND (m.added < ?1 OR m.added > ?2)`

// What was given or begun so lately that nothing is known of it yet.
const (
	justGiven = `status = 'QUEUED' AND queued BETWEEN ?1 AND ?2`
	justBegun = `status = 'IN_PROGRESS' AND started BETWEEN ?1 AND ?2`
)

// Those of the overdue that wait for their job, or have only just got or begun it: as
// who was asked just now leads to them, and as they lead there.
const (
	justAsked = `(SELECT device FROM members INDEXED BY members_waiting WHERE waits <> 0
		UNION SELECT device FROM executions INDEXED BY executions_fresh WHERE ` + justGiven + `
		UNION SELECT device FROM executions INDEXED BY executions_started WHERE ` + justBegun + `) a
		CROSS JOIN campaign_members m INDEXED BY campaign_members_device ON m.device = a.device WHERE ` + overdue
	overdueAsked = `campaign_members m INDEXED BY campaign_members_added WHERE ` + overdue + ` AND (
		EXISTS (SELECT 1 FROM members g WHERE g.device = m.device AND g.waits <> 0)
		OR EXISTS (SELECT 1 FROM executions WHERE device = m.device AND (` + justGiven + ` OR ` + justBegun + `)))`
)

// Overdue implements campaign.Watch. Its cost follows how many these are, and how many
// wait for their job or have just got it, unless those are many times as many.
func (h Campaigns) Overdue(ctx context.Context, name string, before time.Time) (map[int]int, error) {
	waves := map[int]int{}
	now := h.s.now()
	ahead := now.Add(now.Sub(before)) // who was let in later than that was so by a clock that ran ahead
	err := h.s.view(ctx, func(q querier) error {
		count := func(sign int, from string) (all int, err error) {
			err = walk(q, func(row scanner) error {
				var wave, n int
				err := row.Scan(&wave, &n)
				waves[wave] += sign * n
				all += n
				return err
			}, `SELECT m.wave, count(*) FROM `+from+` GROUP BY m.wave`, nanos(before), nanos(ahead), name)
			return all, err
		}
		job, _, err := newestJob(q)
		if err != nil || job.State == jobs.Canceled { // nobody can be asked
			return err
		}
		all, err := count(1, `campaign_members m INDEXED BY campaign_members_added WHERE `+overdue)
		if err != nil || all == 0 {
			return err
		}
		asked := justAsked
		if many, err := manyOf(q, all, `members INDEXED BY members_waiting WHERE waits <> 0`, nil); err != nil {
			return err
		} else if many {
			asked = overdueAsked
		}
		_, err = count(-1, asked)
		return err
	})
	maps.DeleteFunc(waves, func(_, n int) bool { return n == 0 })
	return waves, wrapCampaign("count who is overdue in", name, err)
}

// lastSeen adds what the member was seen on last, and when. What comes over an
// open connection is a sign of life, that it is open is none.
func (h Campaigns) lastSeen(q querier, s *campaign.Sight) error {
	latest, err := latestOf(q, s.Device)
	if err != nil {
		return err
	}
	for _, seen := range h.s.sightings.of(s.Device) {
		if seen.At.After(latest.At) {
			latest = seen
		}
	}
	s.LastSeen, s.SeenAt = latest.Certificate, latest.At
	if s.LastSeen == "" || h.s.cfg.Heard == nil {
		return nil
	}
	if heard := h.s.cfg.Heard(s.Device, s.LastSeen); heard.After(s.SeenAt) {
		s.SeenAt = heard
	}
	return nil
}

// Take implements campaign.Roll.
func (h Campaigns) Take(ctx context.Context, name string, wave int, zones []string, most int) ([]campaign.Member, error) {
	if zones != nil && len(zones) == 0 {
		return nil, nil
	}
	taken, err := commitFor(ctx, h.s, func(t *tx) ([]campaign.Member, error) {
		applied, runs, err := single(t, value[int64], `SELECT applied FROM campaigns WHERE name = ? AND state = 'running'`, name)
		if err != nil || !runs { // it was paused, or canceled, since it was looked at
			return nil, err
		}
		text, args := `m.campaign = ? AND m.standing = 'pending' AND m.wave <= ?`, []any{name, wave}
		if zones != nil {
			text += ` AND m.zone IN (` + strings.TrimSuffix(strings.Repeat("?, ", len(zones)), ", ") + `)`
			for _, zone := range zones {
				args = append(args, zone)
			}
		}
		members, err := collect(t, scanMember, `SELECT `+memberColumns+` FROM campaign_members m
			INDEXED BY campaign_members_pending WHERE `+text+` ORDER BY m.expires, m.place`+atMost, append(args, most)...)
		if err != nil {
			return nil, err
		}
		taken := members[:0]
		for _, m := range members {
			needless, err := t.needless(m, applied)
			switch {
			case err != nil:
			case needless != "":
				err = t.change(`UPDATE campaign_members SET standing = ?, why = ?, since = ? WHERE campaign = ? AND place = ?`,
					campaign.Skipped, needless, nanos(t.now), name, m.Place)
			default:
				err = t.letIn(name, &m)
				taken = append(taken, m)
			}
			if err != nil {
				return nil, err
			}
		}
		return taken, nil
	})
	return taken, wrapCampaign("let devices into", name, err)
}

// needless says why a member need not be let in any more, or returns nothing. Of
// the campaign of what comes due it may have waited for days; that it waited for
// another one when it entered was known then.
func (t *tx) needless(m campaign.Member, applied int64) (why string, err error) {
	if m.Expires.IsZero() {
		err = t.row(`SELECT iif(EXISTS (SELECT 1 FROM rotations WHERE device = ? AND proven_at > ? AND proven_at <= ?),
			'it has rotated since the campaign was applied', '')`, m.Device, applied, nanos(t.now)).Scan(&why)
		return why, err
	}
	err = t.row(`SELECT CASE
		WHEN coalesce((SELECT blocked FROM devices WHERE id = ?1), 1) THEN 'blocked, or removed'
		WHEN EXISTS (SELECT 1 FROM members g WHERE g.device = ?1 AND `+asked+`) THEN 'somebody else put it into the rotation group'
		WHEN (SELECT coalesce(max(number), 0) FROM rotations WHERE device = ?1) > ?2 THEN 'it began a rotation by itself'
		WHEN EXISTS (SELECT 1 FROM campaign_members m JOIN campaigns c ON c.name = m.campaign
			WHERE m.device = ?1 AND c.name <> ?3 AND c.state NOT IN ('preparing', 'aborted', 'canceled', 'finished')
			AND (m.standing IN ('added', 'vended', 'proven') OR m.standing = 'pending' AND c.applied >= ?4)) THEN 'it is in another campaign'
		ELSE '' END`, m.Device, m.Before, campaign.AutoName, nanos(m.Since)).Scan(&why)
	return why, err
}

func (t *tx) letIn(name string, m *campaign.Member) (err error) {
	if m.Before, err = value[int64](t.row(`SELECT coalesce(max(number), 0) FROM rotations WHERE device = ?`, m.Device)); err != nil {
		return err
	}
	m.Standing, m.Added, m.Since = campaign.Added, t.now, t.now
	return t.change(`UPDATE campaign_members SET standing = ?, added = ?, since = ?, before = ?, look = 0 WHERE campaign = ? AND place = ?`,
		m.Standing, nanos(m.Added), nanos(m.Since), m.Before, name, m.Place)
}

// Mark implements campaign.Roll.
func (h Campaigns) Mark(ctx context.Context, name string, found []campaign.Noted) error {
	err := h.s.commit(ctx, func(t *tx) error {
		for _, m := range found {
			if err := t.change(`UPDATE campaign_members SET standing = ?, why = ?, since = ?, look = iif(look = ?, ?, look)
				WHERE campaign = ? AND place = ?`,
				m.Standing, m.Why, nanos(m.Since), m.Turn.Look, nanos(m.Next), name, m.Place); err != nil {
				return err
			}
		}
		return nil
	})
	return wrapCampaign("mark devices of", name, err)
}

// Zones implements campaign.Roll.
func (h Campaigns) Zones(ctx context.Context, name string) (zones []string, err error) {
	err = h.s.view(ctx, func(q querier) (err error) {
		zones, err = collect(q, value[string], `SELECT DISTINCT zone FROM campaign_members INDEXED BY campaign_members_pending
			WHERE campaign = ? AND standing = 'pending'`, name)
		return err
	})
	return zones, wrapCampaign("zones of", name, err)
}

// nextOf is when another campaign let the device of a member in whose turn was over,
// or which was left with what it had been vended when its campaign ended.
const nextOf = `iif(m.standing NOT IN ('pending', 'added'), coalesce((SELECT min(o.added) FROM campaign_members o
	WHERE o.device = m.device AND o.campaign <> m.campaign AND o.added > m.since), 0), 0)`

func scanMemberNext(row scanner) (campaign.Member, error) {
	var s campaign.Sight
	var next int64
	err := scanMemberInto(row, &s, &next)
	s.Next = moment(next)
	return s.Member, err
}

// Members returns a page of a campaign's members by place, after one.
func (h Campaigns) Members(ctx context.Context, name string, after, most int) (page []campaign.Member, err error) {
	err = h.s.view(ctx, func(q querier) (err error) {
		page, err = collect(q, scanMemberNext, `SELECT `+memberColumns+`, `+nextOf+` FROM campaign_members m
			WHERE m.campaign = ? AND m.place > ? ORDER BY m.place`+atMost, name, after, limit(most))
		return err
	})
	return page, wrapCampaign("members of", name, err)
}
