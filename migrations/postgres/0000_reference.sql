CREATE TABLE "encryption_keys" (
	"user_id" text COLLATE "C" NOT NULL,
	"encrypted_key" "bytea" NOT NULL,
	"created_at" timestamp (3) with time zone NOT NULL,
	CONSTRAINT "encryption_keys_pk" PRIMARY KEY("user_id")
);
