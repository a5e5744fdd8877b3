-- For a world where each campaign has a job of its own: those jobs, with the
-- group of things that has each, and which of them a device has had for its
-- execution of the job that is kept here. A campaign of '' is by hand.

CREATE TABLE own_jobs (
  id          TEXT PRIMARY KEY,
  job         TEXT NOT NULL, -- the one that is kept here
  campaign    TEXT NOT NULL,
  thing_group TEXT NOT NULL,
  ended       INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX own_jobs_live ON own_jobs (id) WHERE ended = 0;

CREATE TABLE own_job_things (
  device   TEXT NOT NULL,
  job      TEXT NOT NULL,
  campaign TEXT NOT NULL,
  turn     INTEGER NOT NULL, -- 1, 2, ... of this device in this campaign
  own      TEXT NOT NULL REFERENCES own_jobs (id),
  number   INTEGER NOT NULL, -- of the execution that it is for
  given    INTEGER NOT NULL,
  PRIMARY KEY (device, job, campaign)
) WITHOUT ROWID;
CREATE INDEX own_job_things_own ON own_job_things (own, device);
