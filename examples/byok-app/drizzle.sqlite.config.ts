import { defineConfig } from 'drizzle-kit'

// The table `encryption_keys` is not in the schema: the library makes and migrates it by itself.
export default defineConfig({
  dialect: 'sqlite',
  schema: './src/schema/sqlite.ts',
  out: './migrations/sqlite',
})
