-- A vend changes as few rows as it can, and of those as few indexes.

-- A holding that comes with its standing was written with its certificate, which
-- counts it from the beginning. Every other is counted here.
DROP TRIGGER holdings_attached;
CREATE TRIGGER holdings_attached AFTER INSERT ON holdings WHEN new.detached = 0 AND new.standing = '' BEGIN
  UPDATE certificates SET holders = holders + 1 WHERE id = new.certificate;
  UPDATE holdings SET (standing, not_after) = (SELECT standing, not_after FROM certificates WHERE id = new.certificate)
    WHERE device = new.device AND certificate = new.certificate;
END;

-- SQLite makes a table of a list of three and more, each time that it looks
-- whether a row is in an index: these states are compared one after the other.
DROP INDEX rotations_open;
CREATE UNIQUE INDEX rotations_open ON rotations (device)
  WHERE (state = 'intended' OR state = 'issued' OR state = 'vended' OR state = 'acknowledged' OR state = 'proven');
DROP INDEX rotations_since;
CREATE INDEX rotations_since ON rotations (since, device)
  WHERE (state = 'intended' OR state = 'issued' OR state = 'vended');

-- Of the states, these are neither open nor what most end as.
DROP INDEX rotations_state;
CREATE INDEX rotations_left ON rotations (state, device) WHERE (state = 'stale' OR state = 'abandoned');

-- The tallies of rotations are kept by the writer, once in a transaction.
DROP TRIGGER rotations_made;
DROP TRIGGER rotations_moved;
DROP TRIGGER rotations_gone;

-- Most rotations are of a device that is in no campaign.
DROP TRIGGER campaign_rotation_made;
CREATE TRIGGER campaign_rotation_made AFTER INSERT ON rotations
WHEN EXISTS (SELECT 1 FROM campaign_members WHERE device = new.device) BEGIN
  UPDATE campaign_members SET look = min(look, 0) - 1
    WHERE device = new.device AND standing IN ('added', 'vended', 'proven');
END;
DROP TRIGGER campaign_rotation_moved;
CREATE TRIGGER campaign_rotation_moved AFTER UPDATE OF state ON rotations
WHEN old.state <> new.state AND EXISTS (SELECT 1 FROM campaign_members WHERE device = new.device) BEGIN
  UPDATE campaign_members SET look = min(look, 0) - 1
    WHERE device = new.device AND standing IN ('added', 'vended', 'proven');
END;
