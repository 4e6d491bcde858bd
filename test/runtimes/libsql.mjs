/** Everything on libsql, in files. Prints a report in JSON. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createClient } from '@libsql/client'
import { drizzle } from 'drizzle-orm/libsql'
import { apiTests } from './api-tests.mjs'
import { sqliteKeyStore, testKeyStore } from './library.mjs'
import { newRunner } from './runner.mjs'
import { sweepTests } from './sweep-tests.mjs'

const folder = mkdtempSync(join(tmpdir(), 'keystore-runtime-'))
const url = `file:${join(folder, 'keys.db')}`
const host = createClient({ url })
const subject = {
  name: 'libsql, a file',
  async open() {
    const clients = []
    const open = () => {
      const client = createClient({ url })
      clients.push(client)
      return sqliteKeyStore({ db: drizzle({ client }) })
    }
    const store = open()
    await store.ready()
    return {
      store,
      reopen: async () => open(),
      async rawRows() {
        const { rows } = await host.execute('select user_id, version, encrypted_key from encryption_keys')
        return rows.map((row) => ({
          userId: row.user_id,
          version: row.version,
          encryptedKey: new Uint8Array(row.encrypted_key),
        }))
      },
      breakDown: async () => void (await host.execute('drop table encryption_keys')),
      async close() {
        await store.close()
        for (const client of clients) client.close()
        for (const table of ['encryption_keys', '__drizzle_keystore_migrations'])
          await host.execute(`drop table if exists ${table}`)
      },
    }
  },
}
const runner = newRunner()
apiTests(runner, subject)
sweepTests(runner, { ...subject, db: drizzle({ client: host }), run: (sql) => host.execute(sql) })
testKeyStore(runner, subject)
console.log(JSON.stringify(await runner.run()))
host.close()
rmSync(folder, { recursive: true, force: true })
process.exit()
