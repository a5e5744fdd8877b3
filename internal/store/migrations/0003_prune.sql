-- Finished rotations leave the store after rotation.keep.

CREATE INDEX rotations_finished ON rotations (closed_at, device, number) WHERE state = 'finished';

CREATE TRIGGER rotations_gone AFTER DELETE ON rotations BEGIN
  UPDATE tallies SET n = n - 1 WHERE what = 'rotation' AND state = old.state;
END;
