-- What another place was read to say: sync.go and found.go.

-- What is still to be read of it: of this much, nothing is lost by a kill.
CREATE TABLE sync_todo (
  what  TEXT NOT NULL, -- certificate, device
  name  TEXT NOT NULL,
  tries INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (what, name)
) WITHOUT ROWID;
CREATE INDEX sync_todo_next ON sync_todo (what, tries, name);

-- A certificate whose standing is what another place said of it, so that it may
-- be brought up to date from there. Whatever sets a standing for a reason of
-- this store's own takes this back.
ALTER TABLE certificates ADD COLUMN elsewhere INTEGER NOT NULL DEFAULT 0;

-- Devices that are in as many groups as the other place lets them be.
CREATE TABLE crowded (
  device TEXT PRIMARY KEY,
  groups INTEGER NOT NULL,
  read   INTEGER NOT NULL
) WITHOUT ROWID;

-- Certificates with more policies than one can be given anew.
CREATE INDEX certificates_policies ON certificates (id)
  WHERE standing = 'ACTIVE' AND iif(policies = '', 0, json_array_length(policies)) > 10;
