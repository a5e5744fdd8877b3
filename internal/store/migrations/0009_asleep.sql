-- Whose job was queued lately: devices that do not take theirs for a while are
-- asleep, and hold nobody up.

CREATE INDEX executions_fresh ON executions (queued) WHERE status = 'QUEUED';
