-- By hand: a CHECK cannot find text that is not UTF-8, and adding one rebuilds the table, which loses the host's triggers and indexes on it.
-- Rows that break the rule already stay. The condition compares each character with what its code point encodes to; SQLite reads U+FFFE and
-- U+FFFF as U+FFFD.
CREATE TRIGGER `encryption_keys_user_id_insert` BEFORE INSERT ON `encryption_keys`
WHEN instr(NEW.user_id, char(0)) > 0 OR length(NEW.user_id) > 512 OR NEW.user_id GLOB '*[^' || char(1) || '-' || char(127) || ']*'
BEGIN
  SELECT raise(ABORT, 'user_id must be UTF-8 of at most 512 characters without NUL')
  WHERE instr(NEW.user_id, char(0)) > 0 OR length(NEW.user_id) > 512 OR EXISTS (
    SELECT 1 FROM json_each('[0' || replace(hex(zeroblob(length(NEW.user_id))), '00', ',0') || ']') AS at
    WHERE at.key > 0 AND char(unicode(substr(NEW.user_id, at.key, 1))) <> substr(NEW.user_id, at.key, 1)
      AND substr(NEW.user_id, at.key, 1) NOT IN (char(65534), char(65535)));
END;
--> statement-breakpoint
CREATE TRIGGER `encryption_keys_user_id_update` BEFORE UPDATE OF `user_id` ON `encryption_keys`
WHEN instr(NEW.user_id, char(0)) > 0 OR length(NEW.user_id) > 512 OR NEW.user_id GLOB '*[^' || char(1) || '-' || char(127) || ']*'
BEGIN
  SELECT raise(ABORT, 'user_id must be UTF-8 of at most 512 characters without NUL')
  WHERE instr(NEW.user_id, char(0)) > 0 OR length(NEW.user_id) > 512 OR EXISTS (
    SELECT 1 FROM json_each('[0' || replace(hex(zeroblob(length(NEW.user_id))), '00', ',0') || ']') AS at
    WHERE at.key > 0 AND char(unicode(substr(NEW.user_id, at.key, 1))) <> substr(NEW.user_id, at.key, 1)
      AND substr(NEW.user_id, at.key, 1) NOT IN (char(65534), char(65535)));
END;
