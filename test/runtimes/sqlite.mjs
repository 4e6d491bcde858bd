/** Everything on the SQLite that a runtime brings along, in files: node:sqlite in Node.js and Deno, bun:sqlite in Bun. Prints a report in JSON. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { apiTests } from './api-tests.mjs'
import { memoryKeyStore, sqliteKeyStore, testKeyStore } from './library.mjs'
import { newRunner } from './runner.mjs'
import { vectorTests } from './vector-tests.mjs'

const RAW_ROWS = 'select user_id as "userId", version, encrypted_key as "encryptedKey" from encryption_keys'
const vectors = (name) =>
  JSON.parse(readFileSync(new URL(`../vectors/${name}.json`, import.meta.url), 'utf8'))
const { connect, drizzleOn } = await driver()

async function driver() {
  if (process.versions.bun !== undefined) {
    const [{ Database }, { drizzle }] = await Promise.all([
      import('bun:sqlite'),
      import('drizzle-orm/bun-sqlite'),
    ])
    return { connect: (path) => new Database(path), drizzleOn: (client) => drizzle({ client }) }
  }
  const { DatabaseSync } = await import('node:sqlite')
  // drizzle-orm 0.45 has no database for it. 1.0 has, with the connection as its $client.
  const module = await import('drizzle-orm/node-sqlite').catch(() => null)
  return {
    connect: (path) => new DatabaseSync(path),
    drizzleOn: (client) => (module === null ? { $client: client } : module.drizzle({ client })),
  }
}

/** @param source makes the source of a store, and says how to close what it has opened */
function subject(name, source) {
  return {
    name,
    async open() {
      const folder = mkdtempSync(join(tmpdir(), 'keystore-runtime-'))
      const path = join(folder, 'keys.db')
      const closers = []
      const open = () => sqliteKeyStore(source(path, closers), { pollMs: 50 })
      const store = open()
      await store.ready()
      const past = connect(path)
      return {
        store,
        reopen: async () => open(),
        rawRows: async () => past.prepare(RAW_ROWS).all(),
        breakDown: async () => void past.exec('drop table encryption_keys'),
        async close() {
          await store.close()
          past.close()
          for (const close of closers) close()
          rmSync(folder, { recursive: true, force: true })
        },
      }
    },
  }
}

const runner = newRunner()
const path = subject('a path', (path) => ({ path }))
const db = subject('the host’s db', (path, closers) => {
  const client = connect(path)
  closers.push(() => client.close())
  return { db: drizzleOn(client) }
})
vectorTests(runner, { v3: vectors('v3'), reference: vectors('reference') })
const inMemory = { name: 'memory', open: async () => withClose(memoryKeyStore()) }
for (const one of [inMemory, path, db]) apiTests(runner, one)
for (const one of [path, db]) testKeyStore(runner, one)
console.log(JSON.stringify(await runner.run()))

function withClose(store) {
  return { store, close: () => store.close() }
}
