-- The issuing CAs there were: the one that issues is named in meta, the others
-- are trusted still unless they are retired. Times are unix nanoseconds, 0 for
-- none.

CREATE TABLE authorities (
  id      TEXT PRIMARY KEY, -- of the CA's certificate
  subject TEXT NOT NULL,    -- as certificates.issuer has it
  line    TEXT NOT NULL,    -- its name and key together: what is verified by it
  ders    BLOB NOT NULL,    -- its certificate and those above it, as in chains
  added   INTEGER NOT NULL,
  retired INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX authorities_subject ON authorities (subject);

-- The servers' CAs that came after the one on disk, in the order of their
-- making: one that is prepared is not used yet.
CREATE TABLE server_authorities (
  id       TEXT PRIMARY KEY, -- of the CA's certificate
  der      BLOB NOT NULL,
  prepared INTEGER NOT NULL,
  used     INTEGER NOT NULL  -- since when; 0: not yet
) WITHOUT ROWID;

-- What each device has said that it verifies servers by.
CREATE TABLE anchors (
  device TEXT PRIMARY KEY REFERENCES devices (id) ON DELETE CASCADE,
  sha256 TEXT NOT NULL, -- of the text it was sent
  at     INTEGER NOT NULL
) WITHOUT ROWID;
