import { defineConfig } from 'drizzle-kit'

// The table `encryption_keys` is not in the schema: the library makes and migrates it by itself.
export default defineConfig({
  dialect: 'postgresql',
  schema: './src/schema/postgres.ts',
  out: './migrations/postgres',
})
