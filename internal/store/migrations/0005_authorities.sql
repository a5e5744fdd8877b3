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
