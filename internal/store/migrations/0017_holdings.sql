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
