package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/registry"
)

// OwnJobs are the jobs of campaigns, where each has one of its own in another
// place, and which of them a device has.
type OwnJobs struct{ s *Store }

// OwnJobs returns the jobs of campaigns.
func (s *Store) OwnJobs() OwnJobs { return OwnJobs{s} }

// RemoteJobKey is the key of Meta under which it is kept which job of another
// place goes by a job's id.
func RemoteJobKey(id string) string { return "aws_job/" + id }

// OwnJob is a campaign's job, and the group whose members have it.
type OwnJob struct {
	ID       string
	Job      string // the job of the rotation group that it stands for
	Campaign string // "": of those that were added by hand
	Group    string
}

const ownJobColumns = `o.id, o.job, o.campaign, o.thing_group`

func scanOwnJob(row scanner) (o OwnJob, err error) {
	err = row.Scan(&o.ID, &o.Job, &o.Campaign, &o.Group)
	return o, err
}

// Choose returns the job that a device has for an execution of the rotation
// group's job. Where it has none yet, that of the campaign which let it in last
// and goes on, or that by hand: name is asked which, with the campaign and with
// how often the device has had one of it, this time included. The answer is
// durable, and the same for the same execution, unless its campaign has ended
// and another one waits for the device: then it has that one's.
func (h OwnJobs) Choose(ctx context.Context, e jobs.Execution, name func(campaign string, turn int) OwnJob) (OwnJob, error) {
	own, err := commitFor(ctx, h.s, func(t *tx) (OwnJob, error) {
		own, there, err := ownJobOf(t, e)
		if err != nil {
			return own, err
		}
		campaign, waits, err := single(t, value[string], `SELECT m.campaign`+waitingCampaigns+` ORDER BY m.added DESC LIMIT 1`, e.Device)
		if err != nil {
			return own, err
		}
		if there {
			over, err := campaignIsOver(t, own)
			if err != nil || !over || !waits {
				return own, err
			}
			if err := takeBack(t, own, e); err != nil {
				return own, err
			}
		}
		turn, _, err := single(t, value[int], `SELECT turn FROM own_job_things WHERE device = ? AND job = ? AND campaign = ?`,
			e.Device, e.JobID, campaign)
		if err != nil {
			return own, err
		}
		own = name(campaign, turn+1)
		own.Job, own.Campaign = e.JobID, campaign
		return own, give(t, own, e, turn+1)
	})
	if err != nil {
		return own, fmt.Errorf("choose a job for device %s: %w", e.Device, err)
	}
	return own, nil
}

// waitingCampaigns are those that have let a device in, and go on.
const waitingCampaigns = ` FROM campaign_members m JOIN campaigns c ON c.name = m.campaign
	WHERE m.device = ? AND m.standing IN ('added', 'vended', 'proven') AND c.ended = 0`

func campaignIsOver(t *tx, own OwnJob) (bool, error) {
	if own.Campaign == "" {
		return false, nil
	}
	return value[bool](t.row(`SELECT NOT EXISTS (SELECT 1 FROM campaigns WHERE name = ? AND ended = 0)`, own.Campaign))
}

// takeBack notes that a device has a job for no execution any more.
func takeBack(t *tx, own OwnJob, e jobs.Execution) error {
	return t.change(`UPDATE own_job_things SET number = 0 WHERE device = ? AND job = ? AND campaign = ?`, e.Device, e.JobID, own.Campaign)
}

// Waiting lists the devices whose execution of a campaign's job has not begun,
// and which another campaign has let in that goes on, by device, a page of at
// most so many after one.
func (h OwnJobs) Waiting(ctx context.Context, own LiveJob, after registry.DeviceID, most int) ([]registry.DeviceID, error) {
	var page []registry.DeviceID
	err := h.s.view(ctx, func(q querier) (err error) {
		page, err = collect(q, value[registry.DeviceID], `SELECT t.device FROM own_job_things t JOIN executions e
				ON e.device = t.device AND e.job = t.job AND e.number = t.number
			WHERE t.own = ? AND t.device > ? AND e.status = 'QUEUED' AND EXISTS (SELECT 1`+
			strings.Replace(waitingCampaigns, "?", "t.device", 1)+` AND c.name <> ?) ORDER BY t.device`+atMost,
			own.ID, after, own.Campaign, limit(most))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("who waits for the campaign's job %s: %w", own.ID, err)
	}
	return page, nil
}

// give notes that a device has a job. One that had ended goes on.
func give(t *tx, own OwnJob, e jobs.Execution, turn int) error {
	err := t.change(`INSERT INTO own_jobs VALUES (?, ?, ?, ?, 0) ON CONFLICT (id) DO UPDATE SET ended = 0`,
		own.ID, own.Job, own.Campaign, own.Group)
	if err != nil {
		return err
	}
	return t.change(`INSERT INTO own_job_things VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (device, job, campaign) DO UPDATE SET
		turn = excluded.turn, own = excluded.own, number = excluded.number, given = excluded.given`,
		e.Device, e.JobID, own.Campaign, turn, own.ID, e.Number, nanos(t.now))
}

func ownJobOf(q querier, e jobs.Execution) (OwnJob, bool, error) {
	return single(q, scanOwnJob, `SELECT `+ownJobColumns+` FROM own_job_things t JOIN own_jobs o ON o.id = t.own
		WHERE t.device = ? AND t.job = ? AND t.number = ?`, e.Device, e.JobID, e.Number)
}

// For returns the job that a device has for an execution; false if it has none.
func (h OwnJobs) For(ctx context.Context, e jobs.Execution) (OwnJob, bool, error) {
	return h.one(ctx, e.Device, func(q querier) (OwnJob, bool, error) { return ownJobOf(q, e) })
}

// Newest returns the job that a device was given last; false if it had none.
func (h OwnJobs) Newest(ctx context.Context, device registry.DeviceID) (OwnJob, bool, error) {
	return h.one(ctx, device, func(q querier) (OwnJob, bool, error) {
		return single(q, scanOwnJob, `SELECT `+ownJobColumns+` FROM own_job_things t JOIN own_jobs o ON o.id = t.own
			WHERE t.device = ? ORDER BY t.given DESC LIMIT 1`, device)
	})
}

func (h OwnJobs) one(ctx context.Context, device registry.DeviceID, read func(querier) (OwnJob, bool, error)) (own OwnJob, there bool, err error) {
	err = h.s.look(ctx, func(q querier) (err error) {
		own, there, err = read(q)
		return err
	})
	if err != nil {
		err = fmt.Errorf("the campaign's job of device %s: %w", device, err)
	}
	return own, there, err
}

// LiveJob is a campaign's job that has not ended.
type LiveJob struct {
	OwnJob
	Open int  // executions that have not ended
	Over bool // nobody is given it any more
}

// Live lists the jobs that have not ended. A campaign's is over when the
// campaign has ended; one by hand when nobody has it; each, when another job
// has taken the place of the one that it stands for.
func (h OwnJobs) Live(ctx context.Context) ([]LiveJob, error) {
	var all []LiveJob
	err := h.s.view(ctx, func(q querier) error {
		newest, _, err := newestJob(q)
		if err != nil {
			return err
		}
		all, err = collect(q, func(row scanner) (l LiveJob, err error) {
			err = row.Scan(&l.ID, &l.Job, &l.Campaign, &l.Group, &l.Open, &l.Over)
			l.Over = l.Over || l.Job != newest.ID || l.Campaign == "" && l.Open == 0
			return l, err
		}, `SELECT `+ownJobColumns+`, (SELECT count(*) FROM own_job_things t JOIN executions e
				ON e.device = t.device AND e.job = t.job AND e.number = t.number
				WHERE t.own = o.id AND e.status IN ('QUEUED', 'IN_PROGRESS')),
			o.campaign <> '' AND NOT EXISTS (SELECT 1 FROM campaigns c WHERE c.name = o.campaign AND c.ended = 0)
			FROM own_jobs o INDEXED BY own_jobs_live WHERE o.ended = 0 ORDER BY o.id`)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("jobs of campaigns: %w", err)
	}
	return all, nil
}

// End notes that a job has ended, unless somebody has been given it meanwhile
// who has not ended. Idempotent.
func (h OwnJobs) End(ctx context.Context, id string) error {
	err := h.s.commit(ctx, func(t *tx) error {
		return t.change(`UPDATE own_jobs SET ended = ? WHERE id = ? AND NOT EXISTS (
			SELECT 1 FROM own_job_things t JOIN executions e ON e.device = t.device AND e.job = t.job AND e.number = t.number
			WHERE t.own = own_jobs.id AND e.status IN ('QUEUED', 'IN_PROGRESS'))`, nanos(t.now), id)
	})
	if err != nil {
		return fmt.Errorf("end the campaign's job %s: %w", id, err)
	}
	return nil
}
