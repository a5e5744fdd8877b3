package aws

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/certvendor/certvendor/certificate"
	"github.com/certvendor/certvendor/internal/store"
	"github.com/certvendor/certvendor/jobs"
	"github.com/certvendor/certvendor/registry"
)

// A store that was restored says less than AWS keeps, or something else: it
// lacks what was vended since, and has as ACTIVE, or as about to be taken away,
// what has gone on since. So AWS is believed: what it has of a device's
// certificates is read before the device is answered, and before anything is
// taken from it. What was under way when the backup was made is looked at, and
// not carried out.

// readKept is how long a device's certificates count as read since the restore:
// as long as the process lives. A whole sync of the inventory ends it for all.
const readKept = 100 * 365 * 24 * time.Hour

// inDoubt reports whether the store was restored, and AWS was not asked since
// what the device has.
func (i *Inventory) inDoubt(device registry.DeviceID) bool {
	if i.restored.IsZero() || i.whole(i.restored) {
		return false
	}
	_, read := i.known.get(device)
	return !read
}

// believe brings the certificates that the store has as the device's to where
// AWS has them, once, if the store was restored.
func (i *Inventory) believe(ctx context.Context, device registry.DeviceID) error {
	if !i.inDoubt(device) {
		return nil
	}
	held, err := i.rows.Held(ctx, device)
	if err != nil {
		return err
	}
	for _, h := range held {
		if err := i.hear(ctx, h.ID); err != nil {
			return fmt.Errorf("certificate %s of device %s, after the restore: %w", h.ID, device, err)
		}
	}
	i.known.put(device, struct{}{})
	return nil
}

// heed ends a mark from before the restore. What it was about has come to its
// end at AWS since, and may have gone on from there; so nothing is done there
// but to revoke, which nothing comes back from, and to delete what AWS does not
// let connect any more. The store hears how AWS has it.
func (i *Inventory) heed(ctx context.Context, m store.Mark) error {
	at, err := i.rows.Place(ctx, m.Device, m.Certificate)
	switch {
	case err != nil:
		return err
	case at.Standing == certificate.Revoked:
		return unlessGone(i.setStatus(ctx, m.Certificate, types.CertificateStatusRevoked))
	}
	c, err := i.describe(ctx, m.Certificate)
	switch {
	case err != nil && !isNotFound(err):
		return err
	case err == nil && at.Standing == certificate.Deleted && c.Standing != certificate.Active:
		return i.remove(ctx, m.Certificate)
	}
	i.log.Info().Str("device", string(m.Device)).Str("certificate", string(m.Certificate)).Str("here", string(at.Standing)).
		Str("at AWS", string(c.Standing)).Msg("it was being changed when the backup was made: AWS's word counts")
	if err := i.marks.End(ctx, m.Certificate); err != nil {
		return err
	}
	if !at.Known {
		return nil // it is taken in with the thing that has it
	}
	return i.hear(ctx, m.Certificate)
}

// isSpared reports whether a certificate that the store says was never vended may
// have been, since the backup that the store was restored from: AWS had it before
// the restore.
func (i *Inventory) isSpared(ctx context.Context, id certificate.ID) (bool, error) {
	if i.restored.IsZero() {
		return false, nil
	}
	out, err := i.iot.DescribeCertificate(ctx, &iot.DescribeCertificateInput{CertificateId: new(string(id))})
	if isNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("describe certificate %s: %w", id, err)
	}
	created := out.CertificateDescription.CreationDate
	return created == nil || created.Before(i.restored.Add(clocksMayDiffer)), nil
}

// heed brings the job of a store that was restored to where AWS has it: it goes on
// as the latest of its successors there. One that was canceled before the restore
// is canceled here too, until a person brings it back.
func (j *Jobs) heed(ctx context.Context, job jobs.Job) (jobs.Job, error) {
	id, err := j.remoteID(ctx, job.ID)
	if err != nil {
		return job, err
	}
	for {
		there, err := j.at.describe(ctx, id)
		if err != nil || there == nil || !over(there.Status) {
			return job, errors.Join(err, j.meta.SetMeta(ctx, store.RemoteJobKey(job.ID), id))
		}
		next := successorID(job.ID, id)
		after, err := j.at.describe(ctx, next)
		switch {
		case err != nil:
			return job, err
		case after != nil:
			id = next
			continue
		case there.LastUpdatedAt != nil && there.LastUpdatedAt.After(j.restored):
			return job, nil
		}
		job.State = jobs.Canceled
		return job, errors.Join(j.meta.SetMeta(ctx, store.RemoteJobKey(job.ID), id), j.Jobs.Cancel(ctx, job.ID))
	}
}

// doneBefore takes a member out of the group whose device did its job after the
// backup that the store was restored from: the rows that said so are lost.
func (p *Pacer) doneBefore(ctx context.Context, e jobs.Execution) error {
	if p.restored.IsZero() || e.QueuedAt.After(p.restored) {
		return nil
	}
	return p.group.Remove(ctx, e.Device, p.restored)
}
