-- By hand: IF EXISTS, because the store works without the index, which somebody may have dropped.
DROP INDEX IF EXISTS `encryption_keys_kek_id_idx`;--> statement-breakpoint
CREATE INDEX `encryption_keys_kek_id_idx` ON `encryption_keys` (`kek_id`,`user_id`,`version`) WHERE "encryption_keys"."shredded_at" is null and ("encryption_keys"."user_id" < char(1) or "encryption_keys"."user_id" >= char(2));