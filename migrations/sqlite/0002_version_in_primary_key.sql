PRAGMA foreign_keys=OFF;--> statement-breakpoint
CREATE TABLE `__new_encryption_keys` (
	`user_id` text NOT NULL,
	`version` integer DEFAULT 1 NOT NULL,
	`encrypted_key` blob NOT NULL,
	`kek_id` text,
	`created_at` text NOT NULL,
	`wrapped_at` text,
	`shredded_at` text,
	PRIMARY KEY(`user_id`, `version`),
	CONSTRAINT "encryption_keys_version_check" CHECK(typeof("__new_encryption_keys"."version") = 'integer' and "__new_encryption_keys"."version" between 1 and 2147483647),
	CONSTRAINT "encryption_keys_user_id_check" CHECK(typeof("__new_encryption_keys"."user_id") = 'text'),
	CONSTRAINT "encryption_keys_encrypted_key_check" CHECK(typeof("__new_encryption_keys"."encrypted_key") = 'blob'),
	CONSTRAINT "encryption_keys_kek_id_check" CHECK(typeof("__new_encryption_keys"."kek_id") in ('text', 'null')),
	CONSTRAINT "encryption_keys_created_at_check" CHECK(typeof("__new_encryption_keys"."created_at") = 'text'),
	CONSTRAINT "encryption_keys_wrapped_at_check" CHECK(typeof("__new_encryption_keys"."wrapped_at") in ('text', 'null')),
	CONSTRAINT "encryption_keys_shredded_at_check" CHECK(typeof("__new_encryption_keys"."shredded_at") in ('text', 'null'))
);
--> statement-breakpoint
INSERT INTO `__new_encryption_keys`("user_id", "version", "encrypted_key", "kek_id", "created_at", "wrapped_at", "shredded_at") SELECT "user_id", "version", "encrypted_key", "kek_id", "created_at", "wrapped_at", "shredded_at" FROM `encryption_keys`;--> statement-breakpoint
DROP TABLE `encryption_keys`;--> statement-breakpoint
ALTER TABLE `__new_encryption_keys` RENAME TO `encryption_keys`;--> statement-breakpoint
PRAGMA foreign_keys=ON;--> statement-breakpoint
CREATE INDEX `encryption_keys_kek_id_idx` ON `encryption_keys` (`kek_id`) WHERE "encryption_keys"."shredded_at" is null;