-- What a plan asks of a certificate stands beside who holds it, as its standing
-- and its end do, in place of an index of its own: every certificate that was
-- made cost a page of that index, in no order, and a plan looked into it for
-- each device.

ALTER TABLE holdings ADD COLUMN issuer TEXT NOT NULL DEFAULT '';
ALTER TABLE holdings ADD COLUMN chain INTEGER NOT NULL DEFAULT 0;
ALTER TABLE holdings ADD COLUMN key_type TEXT NOT NULL DEFAULT '';
ALTER TABLE holdings ADD COLUMN not_before INTEGER NOT NULL DEFAULT 0;
ALTER TABLE holdings ADD COLUMN policy_count INTEGER NOT NULL DEFAULT 0;
ALTER TABLE holdings ADD COLUMN shared INTEGER NOT NULL DEFAULT 0; -- another device holds it too

UPDATE holdings SET (issuer, chain, key_type, not_before, policy_count, shared) =
  (SELECT issuer, chain, key_type, not_before, iif(policies = '', 0, json_array_length(policies)), holders > 1
    FROM certificates WHERE id = certificate);

DROP INDEX certificates_brief;

DROP TRIGGER holdings_attached;
CREATE TRIGGER holdings_attached AFTER INSERT ON holdings WHEN new.detached = 0 AND new.standing = '' BEGIN
  UPDATE certificates SET holders = holders + 1 WHERE id = new.certificate;
  UPDATE holdings SET (standing, not_after, issuer, chain, key_type, not_before, policy_count, shared) =
    (SELECT standing, not_after, issuer, chain, key_type, not_before, iif(policies = '', 0, json_array_length(policies)), holders > 1
      FROM certificates WHERE id = new.certificate)
    WHERE device = new.device AND certificate = new.certificate;
END;

DROP TRIGGER holdings_changed;
CREATE TRIGGER holdings_changed AFTER UPDATE OF detached ON holdings
WHEN (old.detached = 0) <> (new.detached = 0) BEGIN
  UPDATE certificates SET holders = holders + iif(new.detached = 0, 1, -1) WHERE id = new.certificate;
  UPDATE holdings SET (standing, policy_count, shared) =
    (SELECT standing, iif(policies = '', 0, json_array_length(policies)), holders > 1
      FROM certificates WHERE id = new.certificate)
    WHERE device = new.device AND certificate = new.certificate;
END;

DROP TRIGGER certificates_stand;
CREATE TRIGGER certificates_stand AFTER UPDATE OF standing, policies, holders ON certificates
WHEN old.standing <> new.standing OR old.policies <> new.policies OR (old.holders > 1) <> (new.holders > 1) BEGIN
  UPDATE holdings SET standing = new.standing, shared = new.holders > 1,
    policy_count = iif(new.policies = '', 0, json_array_length(new.policies))
    WHERE certificate = new.id AND detached = 0;
END;
