-- For a world that keeps certificates and devices elsewhere: which certificates
-- may stand there otherwise than here, so that a crash leaves none unlooked at;
-- and which devices a person took out here, though they are there still.

CREATE TABLE unsettled (
  certificate TEXT PRIMARY KEY,
  device      TEXT NOT NULL,
  since       INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE removed (
  device TEXT PRIMARY KEY
) WITHOUT ROWID;
