-- The first schema. Times are unix nanoseconds, 0 for none, except the
-- validity of a certificate, which is unix seconds: certificates without an
-- end (the year 9999) do not fit in nanoseconds.

CREATE TABLE devices (
  id      TEXT PRIMARY KEY,
  blocked INTEGER NOT NULL,
  added   INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE attributes (
  device TEXT NOT NULL REFERENCES devices (id) ON DELETE CASCADE,
  name   TEXT NOT NULL,
  value  TEXT NOT NULL,
  PRIMARY KEY (device, name)
) WITHOUT ROWID;
CREATE INDEX attributes_value ON attributes (name, value, device);

-- Chains are few and certificates many: each chain is kept once.
CREATE TABLE chains (
  id   INTEGER PRIMARY KEY,
  ders BLOB NOT NULL UNIQUE
);

CREATE TABLE certificates (
  id         TEXT PRIMARY KEY,
  der        BLOB NOT NULL,
  chain      INTEGER NOT NULL REFERENCES chains (id),
  key        TEXT NOT NULL,
  key_type   TEXT NOT NULL,
  serial     TEXT NOT NULL,
  subject    TEXT NOT NULL,
  issuer     TEXT NOT NULL,
  not_before INTEGER NOT NULL,
  not_after  INTEGER NOT NULL,
  standing   TEXT NOT NULL,
  kind       TEXT NOT NULL,
  policies   TEXT NOT NULL,
  created    INTEGER NOT NULL,
  holders    INTEGER NOT NULL DEFAULT 0 -- kept by the triggers below
);
CREATE INDEX certificates_key ON certificates (key, id);
CREATE INDEX certificates_not_after ON certificates (not_after, id);
CREATE INDEX certificates_standing ON certificates (standing, id) WHERE standing <> 'ACTIVE';
CREATE INDEX certificates_orphan ON certificates (id) WHERE standing = 'ACTIVE' AND holders = 0;

CREATE TABLE holdings (
  device      TEXT NOT NULL,
  certificate TEXT NOT NULL REFERENCES certificates (id),
  attached    INTEGER NOT NULL,
  detached    INTEGER NOT NULL DEFAULT 0,
  seen        INTEGER NOT NULL DEFAULT 0,
  evidence    TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (device, certificate)
) WITHOUT ROWID;
CREATE INDEX holdings_certificate ON holdings (certificate, device) WHERE detached = 0;

CREATE TRIGGER holdings_attached AFTER INSERT ON holdings WHEN new.detached = 0 BEGIN
  UPDATE certificates SET holders = holders + 1 WHERE id = new.certificate;
END;
CREATE TRIGGER holdings_changed AFTER UPDATE OF detached ON holdings
WHEN (old.detached = 0) <> (new.detached = 0) BEGIN
  UPDATE certificates SET holders = holders + iif(new.detached = 0, 1, -1) WHERE id = new.certificate;
END;

CREATE TABLE rotations (
  device         TEXT NOT NULL,
  number         INTEGER NOT NULL,
  state          TEXT NOT NULL,
  by_package     INTEGER NOT NULL,
  key            TEXT NOT NULL,
  certificate    TEXT NOT NULL,
  over           TEXT NOT NULL,
  named          TEXT NOT NULL,
  held           TEXT NOT NULL,
  nonce          TEXT NOT NULL,
  profile        TEXT NOT NULL,
  evidence       TEXT NOT NULL,
  unproven       INTEGER NOT NULL,
  behind         TEXT NOT NULL, -- '' when nothing is left to do
  opened         INTEGER NOT NULL,
  vended_at      INTEGER NOT NULL,
  acked_at       INTEGER NOT NULL,
  proven_at      INTEGER NOT NULL,
  closed_at      INTEGER NOT NULL,
  lease_instance TEXT NOT NULL,
  lease_until    INTEGER NOT NULL,
  version        INTEGER NOT NULL,
  since          INTEGER NOT NULL, -- from when on the sweep counts its patience
  woken          INTEGER NOT NULL, -- a sighting has shown its certificate
  PRIMARY KEY (device, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX rotations_open ON rotations (device)
  WHERE state IN ('intended', 'issued', 'vended', 'acknowledged', 'proven');
CREATE INDEX rotations_since ON rotations (since, device)
  WHERE state IN ('intended', 'issued', 'vended');
CREATE INDEX rotations_proven ON rotations (since, device) WHERE state = 'proven';
CREATE INDEX rotations_woken ON rotations (device) WHERE woken = 1;
CREATE INDEX rotations_behind ON rotations (device) WHERE behind <> '';
CREATE INDEX rotations_leased ON rotations (device) WHERE lease_instance <> '';
CREATE INDEX rotations_state ON rotations (state, device);

CREATE TABLE retirements (
  device      TEXT NOT NULL,
  certificate TEXT NOT NULL,
  rotation    INTEGER NOT NULL,
  mode        TEXT NOT NULL,
  evidence    TEXT NOT NULL,
  proven_at   INTEGER NOT NULL,
  due         INTEGER NOT NULL,
  reverted    INTEGER NOT NULL,
  deactivated INTEGER NOT NULL,
  done        INTEGER NOT NULL,
  why         TEXT NOT NULL,
  PRIMARY KEY (device, certificate, rotation)
) WITHOUT ROWID;
CREATE INDEX retirements_due ON retirements (due, device) WHERE done = 0;
CREATE INDEX retirements_device ON retirements (device, due) WHERE done = 0;
CREATE INDEX retirements_reverted ON retirements (device) WHERE done = 0 AND reverted = 1;

CREATE TABLE members (
  device TEXT PRIMARY KEY,
  since  INTEGER NOT NULL,
  waits  INTEGER NOT NULL -- since when for its job; 0: it has been given
) WITHOUT ROWID;
CREATE INDEX members_waiting ON members (waits, device) WHERE waits <> 0;

CREATE TABLE jobs (
  id         TEXT PRIMARY KEY,
  group_name TEXT NOT NULL,
  document   BLOB NOT NULL,
  state      TEXT NOT NULL,
  created    INTEGER NOT NULL,
  place      INTEGER NOT NULL UNIQUE -- in the order in which they were made
);

CREATE TABLE executions (
  device  TEXT NOT NULL,
  job     TEXT NOT NULL REFERENCES jobs (id),
  number  INTEGER NOT NULL,
  status  TEXT NOT NULL,
  details TEXT NOT NULL,
  version INTEGER NOT NULL,
  queued  INTEGER NOT NULL,
  started INTEGER NOT NULL,
  updated INTEGER NOT NULL,
  PRIMARY KEY (device, job, number)
) WITHOUT ROWID;
CREATE INDEX executions_queued ON executions (job, device) WHERE status = 'QUEUED';
CREATE INDEX executions_started ON executions (started, device) WHERE status = 'IN_PROGRESS';

CREATE TABLE packages (
  device      TEXT NOT NULL,
  certificate TEXT NOT NULL,
  created     INTEGER NOT NULL,
  spent       INTEGER NOT NULL,
  PRIMARY KEY (device, certificate)
) WITHOUT ROWID;

CREATE TABLE audit (
  seq         INTEGER PRIMARY KEY,
  at          INTEGER NOT NULL,
  instance    TEXT NOT NULL,
  kind        TEXT NOT NULL,
  device      TEXT NOT NULL,
  certificate TEXT NOT NULL,
  detail      TEXT NOT NULL,
  hash        BLOB NOT NULL
);
CREATE INDEX audit_device ON audit (device, seq) WHERE device <> '';

-- Totals that would cost a pass over a whole table to count.
CREATE TABLE tallies (
  what  TEXT NOT NULL, -- 'rotation', or the id of a job
  state TEXT NOT NULL,
  n     INTEGER NOT NULL,
  PRIMARY KEY (what, state)
) WITHOUT ROWID;

CREATE TRIGGER rotations_made AFTER INSERT ON rotations BEGIN
  INSERT INTO tallies VALUES ('rotation', new.state, 1)
    ON CONFLICT (what, state) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER rotations_moved AFTER UPDATE OF state ON rotations WHEN old.state <> new.state BEGIN
  UPDATE tallies SET n = n - 1 WHERE what = 'rotation' AND state = old.state;
  INSERT INTO tallies VALUES ('rotation', new.state, 1)
    ON CONFLICT (what, state) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER executions_made AFTER INSERT ON executions BEGIN
  INSERT INTO tallies VALUES (new.job, new.status, 1)
    ON CONFLICT (what, state) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER executions_moved AFTER UPDATE OF status ON executions WHEN old.status <> new.status BEGIN
  UPDATE tallies SET n = n - 1 WHERE what = old.job AND state = old.status;
  INSERT INTO tallies VALUES (new.job, new.status, 1)
    ON CONFLICT (what, state) DO UPDATE SET n = n + 1;
END;
