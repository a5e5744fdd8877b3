-- When a device last spoke over a certificate that is retired here, and of which
-- the other place was not told yet; 0: it did not.

ALTER TABLE unsettled ADD COLUMN spoken INTEGER NOT NULL DEFAULT 0;
