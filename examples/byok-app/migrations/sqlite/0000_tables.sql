CREATE TABLE `account` (
	`id` text PRIMARY KEY NOT NULL,
	`account_id` text NOT NULL,
	`provider_id` text NOT NULL,
	`user_id` text NOT NULL,
	`access_token` text,
	`refresh_token` text,
	`id_token` text,
	`access_token_expires_at` integer,
	`refresh_token_expires_at` integer,
	`scope` text,
	`password` text,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL,
	FOREIGN KEY (`user_id`) REFERENCES `user`(`id`) ON UPDATE no action ON DELETE cascade,
	CONSTRAINT "access_token_token_check" CHECK("account"."access_token" is null or (typeof("account"."access_token") = 'text' and instr("account"."access_token", char(0)) = 0 and (("account"."access_token" glob 'v3:*' and length("account"."access_token") >= 105 and substr("account"."access_token", 4) not glob '*[^A-Za-z0-9_-]*')))),
	CONSTRAINT "refresh_token_token_check" CHECK("account"."refresh_token" is null or (typeof("account"."refresh_token") = 'text' and instr("account"."refresh_token", char(0)) = 0 and (("account"."refresh_token" glob 'v3:*' and length("account"."refresh_token") >= 105 and substr("account"."refresh_token", 4) not glob '*[^A-Za-z0-9_-]*')))),
	CONSTRAINT "id_token_token_check" CHECK("account"."id_token" is null or (typeof("account"."id_token") = 'text' and instr("account"."id_token", char(0)) = 0 and (("account"."id_token" glob 'v3:*' and length("account"."id_token") >= 105 and substr("account"."id_token", 4) not glob '*[^A-Za-z0-9_-]*'))))
);
--> statement-breakpoint
CREATE INDEX `account_user_id` ON `account` (`user_id`);--> statement-breakpoint
CREATE TABLE `api_key` (
	`id` text PRIMARY KEY NOT NULL,
	`user_id` text NOT NULL,
	`provider` text NOT NULL,
	`label` text NOT NULL,
	`last_four` text NOT NULL,
	`secret` text NOT NULL,
	`fingerprint` text NOT NULL,
	`created_at` integer NOT NULL,
	`replaced_at` integer,
	`last_used_at` integer,
	`last_result` text,
	FOREIGN KEY (`user_id`) REFERENCES `user`(`id`) ON UPDATE no action ON DELETE cascade,
	CONSTRAINT "label_token_check" CHECK("api_key"."label" is null or (typeof("api_key"."label") = 'text' and instr("api_key"."label", char(0)) = 0 and (("api_key"."label" glob 'v3:*' and length("api_key"."label") >= 105 and substr("api_key"."label", 4) not glob '*[^A-Za-z0-9_-]*')))),
	CONSTRAINT "last_four_token_check" CHECK("api_key"."last_four" is null or (typeof("api_key"."last_four") = 'text' and instr("api_key"."last_four", char(0)) = 0 and (("api_key"."last_four" glob 'v3:*' and length("api_key"."last_four") >= 105 and substr("api_key"."last_four", 4) not glob '*[^A-Za-z0-9_-]*')))),
	CONSTRAINT "secret_token_check" CHECK("api_key"."secret" is null or (typeof("api_key"."secret") = 'text' and instr("api_key"."secret", char(0)) = 0 and (("api_key"."secret" glob 'v3:*' and length("api_key"."secret") >= 105 and substr("api_key"."secret", 4) not glob '*[^A-Za-z0-9_-]*'))))
);
--> statement-breakpoint
CREATE UNIQUE INDEX `api_key_once` ON `api_key` (`user_id`,`fingerprint`);--> statement-breakpoint
CREATE TABLE `rate_limit` (
	`id` text PRIMARY KEY NOT NULL,
	`key` text NOT NULL,
	`count` integer NOT NULL,
	`last_request` integer NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `rate_limit_key_unique` ON `rate_limit` (`key`);--> statement-breakpoint
CREATE TABLE `session` (
	`id` text PRIMARY KEY NOT NULL,
	`token` text NOT NULL,
	`user_id` text NOT NULL,
	`expires_at` integer NOT NULL,
	`ip_address` text,
	`user_agent` text,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL,
	FOREIGN KEY (`user_id`) REFERENCES `user`(`id`) ON UPDATE no action ON DELETE cascade
);
--> statement-breakpoint
CREATE UNIQUE INDEX `session_token_unique` ON `session` (`token`);--> statement-breakpoint
CREATE INDEX `session_user_id` ON `session` (`user_id`);--> statement-breakpoint
CREATE TABLE `user` (
	`id` text PRIMARY KEY NOT NULL,
	`name` text NOT NULL,
	`email` text NOT NULL,
	`email_verified` integer NOT NULL,
	`image` text,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL
);
--> statement-breakpoint
CREATE UNIQUE INDEX `user_email_unique` ON `user` (`email`);--> statement-breakpoint
CREATE TABLE `verification` (
	`id` text PRIMARY KEY NOT NULL,
	`identifier` text NOT NULL,
	`value` text NOT NULL,
	`expires_at` integer NOT NULL,
	`created_at` integer NOT NULL,
	`updated_at` integer NOT NULL,
	CONSTRAINT "value_token_check" CHECK("verification"."value" is null or (typeof("verification"."value") = 'text' and instr("verification"."value", char(0)) = 0 and (("verification"."value" glob 'v3:*' and length("verification"."value") >= 105 and substr("verification"."value", 4) not glob '*[^A-Za-z0-9_-]*'))))
);
--> statement-breakpoint
CREATE INDEX `verification_identifier` ON `verification` (`identifier`);