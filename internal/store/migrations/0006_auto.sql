-- What the campaign of due certificates needs: since when failures count, and
-- when the certificate ends that a member shall replace (unix seconds as in
-- certificates, 0 where the campaign does not go by that).

ALTER TABLE campaigns ADD COLUMN resumed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE campaign_members ADD COLUMN expires INTEGER NOT NULL DEFAULT 0;
CREATE INDEX campaign_members_ended ON campaign_members (campaign, since)
  WHERE standing IN ('proven', 'passed', 'failed');
