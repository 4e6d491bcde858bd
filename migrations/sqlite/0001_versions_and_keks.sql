ALTER TABLE `encryption_keys` ADD `version` integer DEFAULT 1 NOT NULL;--> statement-breakpoint
ALTER TABLE `encryption_keys` ADD `kek_id` text;--> statement-breakpoint
ALTER TABLE `encryption_keys` ADD `wrapped_at` text;--> statement-breakpoint
ALTER TABLE `encryption_keys` ADD `shredded_at` text;