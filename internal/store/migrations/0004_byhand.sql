-- What a person has undone of a rotation, and when; and what a person has
-- revoked, with the reason of RFC 5280, 5.3.1.

ALTER TABLE rotations ADD COLUMN undone TEXT NOT NULL DEFAULT '';
ALTER TABLE rotations ADD COLUMN undone_at INTEGER NOT NULL DEFAULT 0;

CREATE TABLE revocations (
  certificate TEXT PRIMARY KEY REFERENCES certificates (id),
  at          INTEGER NOT NULL,
  reason      INTEGER NOT NULL,
  not_after   INTEGER NOT NULL -- unix seconds, as in certificates
) WITHOUT ROWID;
CREATE INDEX revocations_not_after ON revocations (not_after, certificate);
