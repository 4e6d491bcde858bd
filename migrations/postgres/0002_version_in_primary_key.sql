CREATE INDEX "encryption_keys_kek_id_idx" ON "encryption_keys" USING btree ("kek_id") WHERE "encryption_keys"."shredded_at" is null;--> statement-breakpoint
ALTER TABLE "encryption_keys" DROP CONSTRAINT "encryption_keys_pk";
--> statement-breakpoint
ALTER TABLE "encryption_keys" ADD CONSTRAINT "encryption_keys_pk" PRIMARY KEY("user_id","version");--> statement-breakpoint
ALTER TABLE "encryption_keys" ADD CONSTRAINT "encryption_keys_version_check" CHECK ("encryption_keys"."version" >= 1);