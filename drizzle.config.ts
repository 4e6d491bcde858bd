import { defineConfig } from 'drizzle-kit'

// One file for both dialects, chosen by DIALECT: drizzle-kit takes no array of configurations.
const dialect = process.env.DIALECT
if (dialect !== 'sqlite' && dialect !== 'postgres') {
  throw new Error('Set DIALECT=sqlite or DIALECT=postgres (`npm run generate` runs both)')
}

export default defineConfig({
  dialect: dialect === 'sqlite' ? 'sqlite' : 'postgresql',
  schema: `./src/adapters/${dialect}/schema.ts`,
  out: `./migrations/${dialect}`,
})
