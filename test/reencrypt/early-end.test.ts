/** A first pass that ends early, since others have done most of a table: nothing is missed, and nothing is counted wrong. */
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { EnvelopeCrypto, generateMasterKey, localMasterKey } from '../../src/index.js'
import { reencrypt, sqlSource } from '../../src/reencrypt/index.js'
import { SharedOrder } from '../../src/reencrypt/shared-order.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { dialects } from '../support/databases.js'
import { type RawDatabase, rawDatabase } from '../support/raw-database.js'

const ROWS = 400
const PARTS = ROWS / 2
/** So few that a first pass nearly always ends early. */
const OLD = [7, 207, 387]
const CONTEXT = { column: 'credentials.api_key' }

describe('the order of the parts', () => {
  const order = () => {
    const made = new SharedOrder(undefined, () => undefined, true)
    made.begin(PARTS)
    return made
  }

  it('ends after a sixth of the parts in a row, and stays ended, whoever asks again', () => {
    const shared = order()
    let given = 0
    while (shared.next() !== null) {
      given += 1
      shared.passed(true)
    }
    expect(given).toBe(Math.ceil(PARTS / 6))
    shared.passed(false)
    for (let again = 0; again < 2 * PARTS; again += 1) expect(shared.next()).toBeNull()
    expect(shared.endedEarly).toBe(true)
  })

  it('goes on where there was something to do in any page of a part', () => {
    const shared = order()
    const given = new Set<number>()
    for (let part = shared.next(); part !== null; part = shared.next()) {
      given.add(part)
      shared.passed(given.size % 30 !== 0)
      shared.passed(true)
    }
    expect(given.size).toBe(PARTS)
    expect(shared.endedEarly).toBe(false)
  })
})

describe.each(dialects)('a sweep of a table that is nearly done, on %s', (dialect) => {
  const cleanups = cleanUpAfterEach()
  let host: RawDatabase
  let envelope: EnvelopeCrypto

  beforeEach(async () => {
    host = cleanups.closing(await rawDatabase(dialect))
    const store = await openKeyStore(host.url)
    envelope = cleanups.closing(
      await EnvelopeCrypto.open({ store, masterKeys: localMasterKey(generateMasterKey()) }),
    )
    await host.query('create table credentials (id integer primary key, user_id text, api_key text)')
    const values = Array.from({ length: ROWS }, (_, id) => ({ id, plaintext: `sk-${id}` }))
    const tokens = await envelope.encryptMany(
      values.map(({ plaintext }) => ({ userId: 'alice', plaintext, context: CONTEXT })),
    )
    const rows = values.map(({ id, plaintext }) => {
      const token = tokens[id]
      return { id, user_id: 'alice', api_key: OLD.includes(id) || !token?.ok ? plaintext : token.value }
    })
    await host.insert('credentials', rows)
  })

  const sweep = async (signal?: AbortSignal, onProgress?: Parameters<typeof reencrypt>[0]['onProgress']) => {
    const columns = { table: 'credentials', key: 'id', owner: 'user_id', column: 'api_key' }
    const source = cleanups.closing(await sqlSource(host.url, columns))
    const options = {
      plaintext: true,
      batchSize: 2,
      ...(signal && { signal }),
      ...(onProgress && { onProgress }),
    }
    return reencrypt({ envelope, source, context: CONTEXT, ...options })
  }
  const BEFORE = { current: ROWS - OLD.length, plaintext: OLD.length }

  it('finds what is left, and counts it as it was', async () => {
    expect(await sweep()).toMatchObject({ complete: true, changed: OLD.length, left: 0, before: BEFORE })
  })

  it('counts what it has seen, if it is stopped in its second pass', async () => {
    const stop = new AbortController()
    const report = await sweep(stop.signal, ({ phase, done }) => {
      if (phase === 'sweeping again' && done >= ROWS - 10) stop.abort()
    })
    expect(report).toMatchObject({ complete: false, left: 0 })
    for (const counts of [report.before, report.after])
      expect(Object.values(counts).reduce((sum, count) => sum + count, 0)).toBeGreaterThanOrEqual(ROWS - 10)
    // The last ten may be where nobody came.
    expect(report.changed).toBeGreaterThanOrEqual(OLD.length - 1)
    expect(report.before.plaintext).toBe(report.changed)
  })

  it('names rows that a CHECK refuses in each pass', async () => {
    // More than a report lists. Each of them is written by itself in the end: a table of many more takes a minute.
    const [refused, taken] = [1012, 92]
    await host.query('drop table credentials')
    await host.query(
      `create table credentials (id integer primary key, user_id text, api_key text check (id % 12 = 0 or api_key not like 'v3:%'))`,
    )
    await host.insert(
      'credentials',
      Array.from({ length: refused + taken }, (_, id) => ({ id, user_id: 'alice', api_key: `sk-${id}` })),
    )
    const columns = { table: 'credentials', key: 'id', owner: 'user_id', column: 'api_key' }
    const source = cleanups.closing(await sqlSource(host.url, columns))
    const report = await reencrypt({ envelope, source, context: CONTEXT, plaintext: true })
    expect(report).toMatchObject({ complete: true, changed: taken, left: refused, failedCount: refused })
    // On Postgres a commit each.
  }, 240_000)
})
