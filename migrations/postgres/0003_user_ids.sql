-- By hand: NOT VALID, so that rows which break the rule already keep their place. Rows that are written from now on are checked.
ALTER TABLE "encryption_keys" ADD CONSTRAINT "encryption_keys_user_id_check" CHECK (pg_catalog.octet_length("encryption_keys"."user_id") <= 512) NOT VALID;
