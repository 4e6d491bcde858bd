/** Everything in Cloudflare's workerd, on D1. A request runs some of the tests, `?from=0&count=20`, and answers with a report in JSON. */
import { drizzle } from 'drizzle-orm/d1'
import { drizzle as drizzlePostgres } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import reference from '../vectors/reference.json'
import v3 from '../vectors/v3.json'
import { apiTests } from './api-tests.mjs'
import { memoryKeyStore, sqliteKeyStore, testKeyStore } from './library.mjs'
import { postgresTests } from './postgres-tests.mjs'
import { newRunner } from './runner.mjs'
import { sweepTests } from './sweep-tests.mjs'
import { vectorTests } from './vector-tests.mjs'

export default {
  async fetch(request, env) {
    const { searchParams } = new URL(request.url)
    const [from, count] = ['from', 'count'].map((name) => Number(searchParams.get(name)))
    const runner = newRunner()
    if (searchParams.get('on') === 'd1') {
      vectorTests(runner, { v3, reference })
      apiTests(runner, { name: 'memory', open: async () => withClose(memoryKeyStore()) })
      apiTests(runner, onD1(env.DB))
      sweepTests(runner, { ...onD1(env.DB), db: drizzle(env.DB), run: (sql) => env.DB.prepare(sql).run() })
      testKeyStore(runner, onD1(env.DB))
      return Response.json(await runner.run({ from, count }))
    }
    // A connection belongs to the request that made it.
    const client = postgres(env.POSTGRES_URL, { max: 4, onnotice: () => undefined })
    const db = drizzlePostgres({ client })
    postgresTests(runner, 'postgres-js', { sourceOf: () => ({ db }), sql: (text) => client.unsafe(text) })
    const report = await runner.run({ from, count })
    await client.end({ timeout: 1 })
    return Response.json(report)
  },
}

function onD1(database) {
  return {
    name: 'D1',
    async open() {
      const open = () => sqliteKeyStore({ db: drizzle(database) })
      const store = open()
      await store.ready()
      return {
        store,
        reopen: async () => open(),
        async rawRows() {
          const { results } = await database.prepare('select * from encryption_keys').run()
          return results.map((row) => ({
            userId: row.user_id,
            version: row.version,
            encryptedKey: Uint8Array.from(row.encrypted_key),
          }))
        },
        breakDown: async () => void (await database.prepare('drop table encryption_keys').run()),
        async close() {
          await store.close()
          const names = ['encryption_keys', '__drizzle_keystore_migrations']
          await database.batch(names.map((name) => database.prepare(`drop table if exists ${name}`)))
        },
      }
    },
  }
}

function withClose(store) {
  return { store, close: () => store.close() }
}
