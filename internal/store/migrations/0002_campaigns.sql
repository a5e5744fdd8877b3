-- Campaigns. Their spec is JSON; times are unix nanoseconds, 0 for none.

CREATE TABLE campaigns (
  name    TEXT PRIMARY KEY,
  spec    TEXT NOT NULL,
  state   TEXT NOT NULL,
  why     TEXT NOT NULL,
  devices INTEGER NOT NULL,
  wave    INTEGER NOT NULL,
  by_whom TEXT NOT NULL,
  applied INTEGER NOT NULL,
  ended   INTEGER NOT NULL,
  version INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE campaign_members (
  campaign TEXT NOT NULL REFERENCES campaigns (name),
  place    INTEGER NOT NULL,
  device   TEXT NOT NULL,
  wave     INTEGER NOT NULL,
  standing TEXT NOT NULL,
  why      TEXT NOT NULL,
  zone     TEXT NOT NULL,
  added    INTEGER NOT NULL,
  since    INTEGER NOT NULL,
  before   INTEGER NOT NULL, -- its newest rotation when it was let in
  PRIMARY KEY (campaign, place)
) WITHOUT ROWID;
CREATE UNIQUE INDEX campaign_members_device ON campaign_members (device, campaign);
CREATE INDEX campaign_members_pending ON campaign_members (campaign, zone, place) WHERE standing = 'pending';
CREATE INDEX campaign_members_working ON campaign_members (campaign, place)
  WHERE standing IN ('added', 'vended', 'proven');

CREATE TRIGGER campaign_members_made AFTER INSERT ON campaign_members BEGIN
  INSERT INTO tallies VALUES ('campaign ' || new.campaign, new.wave || ' ' || new.standing, 1)
    ON CONFLICT (what, state) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER campaign_members_moved AFTER UPDATE OF standing ON campaign_members
WHEN old.standing <> new.standing BEGIN
  UPDATE tallies SET n = n - 1 WHERE what = 'campaign ' || old.campaign AND state = old.wave || ' ' || old.standing;
  INSERT INTO tallies VALUES ('campaign ' || new.campaign, new.wave || ' ' || new.standing, 1)
    ON CONFLICT (what, state) DO UPDATE SET n = n + 1;
END;
