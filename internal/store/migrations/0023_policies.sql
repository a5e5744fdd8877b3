-- How many policies a certificate has is asked where it matters, of the
-- certificates with too many: it does not stand beside each holding.

DROP TRIGGER holdings_attached;
DROP TRIGGER holdings_changed;
DROP TRIGGER certificates_stand;

ALTER TABLE holdings DROP COLUMN policy_count;

CREATE TRIGGER holdings_attached AFTER INSERT ON holdings WHEN new.detached = 0 AND new.standing = '' BEGIN
  UPDATE certificates SET holders = holders + 1 WHERE id = new.certificate;
  UPDATE holdings SET (standing, not_after, issuer, chain, key_type, not_before, shared) =
    (SELECT standing, not_after, issuer, chain, key_type, not_before, holders > 1
      FROM certificates WHERE id = new.certificate)
    WHERE device = new.device AND certificate = new.certificate;
END;

CREATE TRIGGER holdings_changed AFTER UPDATE OF detached ON holdings
WHEN (old.detached = 0) <> (new.detached = 0) BEGIN
  UPDATE certificates SET holders = holders + iif(new.detached = 0, 1, -1) WHERE id = new.certificate;
  UPDATE holdings SET (standing, shared) = (SELECT standing, holders > 1 FROM certificates WHERE id = new.certificate)
    WHERE device = new.device AND certificate = new.certificate;
END;

CREATE TRIGGER certificates_stand AFTER UPDATE OF standing, holders ON certificates
WHEN old.standing <> new.standing OR (old.holders > 1) <> (new.holders > 1) BEGIN
  UPDATE holdings SET standing = new.standing, shared = new.holders > 1
    WHERE certificate = new.id AND detached = 0;
END;
