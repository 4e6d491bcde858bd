ALTER TABLE "encryption_keys" ADD COLUMN "version" integer DEFAULT 1 NOT NULL;--> statement-breakpoint
ALTER TABLE "encryption_keys" ADD COLUMN "kek_id" text;--> statement-breakpoint
ALTER TABLE "encryption_keys" ADD COLUMN "wrapped_at" timestamp (3) with time zone;--> statement-breakpoint
ALTER TABLE "encryption_keys" ADD COLUMN "shredded_at" timestamp (3) with time zone;