/** The statements that a SQLite store sends: their plans, and what they leave alone. */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import { sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { EnvelopeCrypto, localMasterKey } from '../../../src/index.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { randomRecord } from '../../support/rows.js'

const MILLION = 1_000_000
const masterKey = localMasterKey(randomBytes(32))
/** In hex. */
const wrapped = Buffer.from(masterKey.wrapV2(randomBytes(32))).toString('hex')
const page = { limit: 500, after: { userId: 'user-5', version: 1 } }

describe.runIf(isChosen('sqlite'))('the statements of a SQLite store', () => {
  const cleanups = cleanUpAfterEach()
  const sent: string[] = []
  let path: string
  let client: Database.Database

  beforeEach(async () => {
    path = await cleanups.database('sqlite')
    sent.length = 0
    client = cleanups.closing(new Database(path, { verbose: (statement) => sent.push(String(statement)) }))
  })

  const planOf = (statement: string) =>
    (client.prepare(`explain query plan ${statement}`).all() as { detail: string }[]).map(
      ({ detail }) => detail,
    )
  const sentLike = (pattern: RegExp) => sent.filter((statement) => pattern.test(statement))

  function fill(rows: number, kekId: string): void {
    const insert = `insert into encryption_keys (user_id, encrypted_key, kek_id, created_at)
      with recursive n(i) as (select 1 union all select i + 1 from n where i < ${rows})
      select 'user-' || i, x'${wrapped}', ${kekId}, '2026-01-01T00:00:00+00:00' from n`
    client.exec(insert)
  }

  it('list a page by an index, without a sort', async () => {
    const store = sqliteKeyStore({ db: drizzle({ client }) })
    await store.ready()
    fill(2000, `'local:x'`)
    sent.length = 0
    await store.list(page)
    await store.list({ ...page, notKekId: 'local:y' })
    const lists = sentLike(/encryption_keys/)
    // One of the two lists looks for the end of its part first.
    expect(lists).toHaveLength(3)
    // Reading does not stop the process while another one writes.
    for (const other of sent) expect(lists.includes(other) || /busy_timeout/.test(other)).toBe(true)
    for (const statement of lists) {
      const plan = planOf(statement).join('\n')
      expect(plan).toMatch(
        /SEARCH encryption_keys USING (COVERING )?INDEX sqlite_autoindex_encryption_keys_1/,
      )
      expect(plan).not.toMatch(/TEMP B-TREE|^SCAN encryption_keys/m)
    }
  })

  it('read only a few of 1,000,000 rows when a service opens', async () => {
    const store = sqliteKeyStore({ db: drizzle({ client }) })
    await store.ready()
    fill(MILLION, `case when i = 777777 then '${masterKey.v2Id}' else null end`)
    sent.length = 0
    const begun = performance.now()
    const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKey, format: 'v2' })
    const openMs = performance.now() - begun
    for (const statement of sentLike(/kek_id/)) {
      const plan = planOf(statement)
      const reads = plan.filter((step) => /encryption_keys/.test(step))
      expect(reads.length).toBeGreaterThan(0)
      // The first tenants stand at the beginning of the primary key.
      const index = /kek_id_idx|autoindex_encryption_keys_1 \(\(user_id,version\)>/
      for (const step of reads) expect(step).toMatch(index)
    }
    const counted = performance.now()
    expect((await store.census()).reduce((sum, { count }) => sum + count, 0)).toBe(MILLION)
    expect(openMs).toBeLessThan((performance.now() - counted) / 5)
    await envelope.close()
  })

  it('change no pragma of a host’s connection, and leave it open', async () => {
    const pragmas = [
      'foreign_keys',
      'synchronous',
      'journal_mode',
      'busy_timeout',
      'secure_delete',
      'locking_mode',
    ]
    const values = () => pragmas.map((name) => [name, client.pragma(name, { simple: true })])
    const before = values()
    const envelope = await EnvelopeCrypto.open({
      store: sqliteKeyStore({ db: drizzle({ client }) }),
      masterKeys: masterKey,
    })
    await envelope.encrypt('alice', 'x')
    expect(values()).toEqual(before)
    await envelope.close()
    expect(client.open).toBe(true)
    expect(values()).toEqual(before)
  })

  it('use a write-ahead log on a connection of the store’s own, and overwrite what they delete', async () => {
    const own = sqliteKeyStore({ path: path })
    const marker = randomBytes(40)
    await own.insertIfAbsent([randomRecord('alice', { encryptedKey: marker })])
    expect(client.pragma('journal_mode', { simple: true })).toBe('wal')
    const inFiles = () => ['', '-wal'].some((suffix) => readFileSync(path + suffix).includes(marker))
    expect(inFiles()).toBe(true)
    await own.shred('alice', { forget: false })
    client.pragma('wal_checkpoint(TRUNCATE)')
    expect(inFiles()).toBe(false)
    await own.close()
  })
})
