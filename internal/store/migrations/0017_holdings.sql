-- What a list of devices says of a certificate stands beside who holds it: to
-- look it up for each of a fleet, whose ids are in no order, took most of the
-- time. The triggers keep it, of what is not detached.

ALTER TABLE holdings ADD COLUMN standing TEXT NOT NULL DEFAULT '';
ALTER TABLE holdings ADD COLUMN not_after INTEGER NOT NULL DEFAULT 0; -- unix seconds, as in certificates

UPDATE holdings SET (standing, not_after) = (SELECT standing, not_after FROM certificates WHERE id = certificate);

DROP TRIGGER holdings_attached;
CREATE TRIGGER holdings_attached AFTER INSERT ON holdings WHEN new.detached = 0 BEGIN
  UPDATE certificates SET holders = holders + 1 WHERE id = new.certificate;
  UPDATE holdings SET (standing, not_after) = (SELECT standing, not_after FROM certificates WHERE id = new.certificate)
    WHERE device = new.device AND certificate = new.certificate;
END;

DROP TRIGGER holdings_changed;
CREATE TRIGGER holdings_changed AFTER UPDATE OF detached ON holdings
WHEN (old.detached = 0) <> (new.detached = 0) BEGIN
  UPDATE certificates SET holders = holders + iif(new.detached = 0, 1, -1) WHERE id = new.certificate;
  UPDATE holdings SET standing = (SELECT standing FROM certificates WHERE id = new.certificate)
    WHERE device = new.device AND certificate = new.certificate;
END;

CREATE TRIGGER certificates_stand AFTER UPDATE OF standing ON certificates WHEN old.standing <> new.standing BEGIN
  UPDATE holdings SET standing = new.standing WHERE certificate = new.id AND detached = 0;
END;

-- What became of each campaign, when and by whom: an array of objects.
ALTER TABLE campaigns ADD COLUMN history TEXT NOT NULL DEFAULT '[]';

-- A plan also asks how many policies a certificate has.
DROP INDEX certificates_brief;
CREATE INDEX certificates_brief ON certificates (id, issuer, chain, key_type, not_before, not_after, holders, policies)
  WHERE standing = 'ACTIVE' AND length(id) > 0;

-- What was removed within the last hour, for the circuit breaker of the next start.
CREATE INDEX retirements_deactivated ON retirements (deactivated) WHERE deactivated <> 0;
