/** Encrypted columns and the sweep on a db of the host's. */
import assert from 'node:assert/strict'
import { sqliteTable, text } from 'drizzle-orm/sqlite-core'
import {
  drizzleSource,
  EnvelopeCrypto,
  encryptedText,
  generateMasterKey,
  localMasterKey,
  reencrypt,
} from './library.mjs'

/** @param subject like one of the conformance suite, with the host's `db`, and `run` for SQL past it */
export function sweepTests({ describe, it }, { name, open, db, run }) {
  describe(`encrypted columns on ${name}`, () => {
    it('are encrypted in a scope, and swept', async () => {
      const credentials = sqliteTable('credentials', {
        id: text('id').primaryKey(),
        userId: text('user_id'),
        apiKey: encryptedText('api_key', { context: 'credentials.api_key' }),
      })
      const { store, close } = await open()
      await run('create table credentials (id text primary key not null, user_id text, api_key text)')
      const envelope = await EnvelopeCrypto.open({
        store,
        masterKeys: localMasterKey(generateMasterKey()),
        closeStore: false,
      })
      await envelope.scope('alice', () =>
        db.insert(credentials).values({ id: '1', userId: 'alice', apiKey: 'sk-1' }),
      )
      await run("insert into credentials values ('2', 'alice', 'plain')")
      await envelope.rotateUserKey('alice')
      const source = drizzleSource(db, credentials, { key: 'id', owner: 'userId', columns: ['apiKey'] })
      const { complete, changed, failedCount } = await reencrypt({ envelope, source, plaintext: true })
      assert.deepEqual({ complete, changed, failedCount }, { complete: true, changed: 2, failedCount: 0 })
      const rows = await envelope.scope('alice', () => db.select().from(credentials))
      assert.deepEqual(rows.map(({ apiKey }) => apiKey).sort(), ['plain', 'sk-1'])
      await envelope.close()
      await run('drop table credentials')
      await close()
    })
  })
}
