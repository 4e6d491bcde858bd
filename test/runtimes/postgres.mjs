/** Everything on Postgres. Arguments: `postgres-js` or `pg`, and the URL of an empty database. Prints a report in JSON. */
import { postgresTests } from './postgres-tests.mjs'
import { newRunner } from './runner.mjs'

const [driver, url] = process.argv.slice(2)
const runner = newRunner()
const { subject, end } = await (driver === 'pg' ? onPg() : onPostgresJs())
postgresTests(runner, driver, subject)
console.log(JSON.stringify(await runner.run()))
await end()

async function onPostgresJs() {
  const [{ default: postgres }, { drizzle }] = await Promise.all([
    import('postgres'),
    import('drizzle-orm/postgres-js'),
  ])
  const client = postgres(url, { max: 8, onnotice: () => undefined })
  const db = drizzle({ client })
  return {
    subject: { sourceOf: () => ({ db }), sql: (text) => client.unsafe(text) },
    end: () => client.end({ timeout: 1 }),
  }
}

async function onPg() {
  const { default: pg } = await import('pg')
  const pool = new pg.Pool({ connectionString: url })
  return {
    subject: {
      sourceOf: () => ({ url, maxConnections: 4 }),
      sql: async (text) => (await pool.query(text)).rows,
    },
    end: () => pool.end(),
  }
}
