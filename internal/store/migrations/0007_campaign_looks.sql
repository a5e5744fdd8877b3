-- When a member of a campaign is to be looked at again: unix nanoseconds, and
-- less than zero when something has become of its device since. Each of these
-- takes one away, so that whoever has looked at it sees that it is not the
-- number from before.

ALTER TABLE campaign_members ADD COLUMN look INTEGER NOT NULL DEFAULT 0;
CREATE INDEX campaign_members_look ON campaign_members (campaign, look, place)
  WHERE standing IN ('added', 'vended', 'proven');
CREATE INDEX campaign_members_added ON campaign_members (campaign, added, wave) WHERE standing = 'added';

CREATE TRIGGER campaign_rotation_made AFTER INSERT ON rotations BEGIN
  UPDATE campaign_members SET look = min(look, 0) - 1
    WHERE device = new.device AND standing IN ('added', 'vended', 'proven');
END;
CREATE TRIGGER campaign_rotation_moved AFTER UPDATE OF state ON rotations WHEN old.state <> new.state BEGIN
  UPDATE campaign_members SET look = min(look, 0) - 1
    WHERE device = new.device AND standing IN ('added', 'vended', 'proven');
END;
CREATE TRIGGER campaign_execution_moved AFTER UPDATE OF status ON executions WHEN old.status <> new.status BEGIN
  UPDATE campaign_members SET look = min(look, 0) - 1
    WHERE device = new.device AND standing IN ('added', 'vended', 'proven');
END;
CREATE TRIGGER campaign_device_moved AFTER UPDATE OF blocked ON devices BEGIN
  UPDATE campaign_members SET look = min(look, 0) - 1
    WHERE device = new.id AND standing IN ('added', 'vended', 'proven');
END;
CREATE TRIGGER campaign_device_gone AFTER DELETE ON devices BEGIN
  UPDATE campaign_members SET look = min(look, 0) - 1
    WHERE device = old.id AND standing IN ('added', 'vended', 'proven');
END;
