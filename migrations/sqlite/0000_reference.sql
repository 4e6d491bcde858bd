CREATE TABLE `encryption_keys` (
	`user_id` text PRIMARY KEY NOT NULL,
	`encrypted_key` blob NOT NULL,
	`created_at` text NOT NULL
);
