-- What the campaign of due certificates needs: since when failures count, and
-- when the certificate ends that a member shall replace (unix seconds as in
-- certificates, 0 where the campaign does not go by that).

ALTER TABLE campaigns ADD COLUMN resumed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE campaign_members ADD COLUMN expires INTEGER NOT NULL DEFAULT 0;
CREATE INDEX campaign_members_ended ON campaign_members (campaign, since)
  WHERE standing IN ('proven', 'passed', 'failed');

-- What others are still to be told. The rows of meta that begin with "told "
-- hold what they were told already.
CREATE TABLE outbox (
  id       TEXT PRIMARY KEY,
  kind     TEXT NOT NULL,
  at       INTEGER NOT NULL,
  detail   TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  due      INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX outbox_due ON outbox (due, id);
CREATE INDEX outbox_at ON outbox (at, id);
