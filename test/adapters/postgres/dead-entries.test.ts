/** Index entries of rows that were rewrapped, and that no vacuum may remove: they cost neither `open` nor a page anything. */
import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { beforeAll, describe, expect, it } from 'vitest'
import { postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { EnvelopeCrypto, type KeystoreEvent, localMasterKey, masterKeyring } from '../../../src/index.js'
import type { UnsearchedKeks } from '../../../src/store.js'
import { cleanUpAfterAll } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { planOf, type RecordedPool, recordedPool } from '../../support/query-plans.js'
import { slow } from '../../support/slow.js'

/** All of them are rewrapped. So many that to go through their entries takes several times the 25 ms after which a search is cut off. */
const ROWS = slow ? 2_000_000 : 300_000
const old = localMasterKey(randomBytes(32))
const fresh = localMasterKey(randomBytes(32))
const wrapped = Buffer.from(fresh.wrapV2(randomBytes(32))).toString('hex')

describe.runIf(isChosen('postgres'))('an index full of entries of rows that were rewrapped', () => {
  const cleanups = cleanUpAfterAll()
  let recorded: RecordedPool
  let store: ReturnType<typeof postgresKeyStore>
  beforeAll(async () => {
    const url = await cleanups.database('postgres')
    recorded = recordedPool(url)
    cleanups.add(() => recorded.pool.end())
    store = cleanups.closing(postgresKeyStore({ pool: recorded.pool }))
    await store.ready()
    const query = (text: string) => recorded.pool.query({ text })
    await query('alter table encryption_keys set (autovacuum_enabled = off)')
    await query(`insert into encryption_keys (user_id, encrypted_key, kek_id, created_at)
      select md5(i::text), '\\x${wrapped}', '${old.v2Id}', now() from generate_series(1, ${ROWS}) i`)
    await query('analyze encryption_keys')
    // Sees the rows as they were, so that nobody may forget them.
    const reader = new pg.Client(url)
    await reader.connect()
    cleanups.add(() => reader.end())
    await reader.query('begin isolation level repeatable read')
    await reader.query('select 1 from encryption_keys limit 1')
    await query(`update encryption_keys set kek_id = '${fresh.v2Id}'`)
    recorded.sent.length = 0
  }, 120_000)

  const buffersOf = async (statement: pg.QueryConfig) => {
    const text = `explain (analyze, buffers, format json) ${statement.text}`
    const { rows } = await recorded.pool.query({ text, values: [] }, statement.values ?? [])
    const { Plan } = rows[0]['QUERY PLAN'][0]
    return Plan['Shared Hit Blocks'] + Plan['Shared Read Blocks']
  }

  it.each([
    ['the old master key is still given', [old.v2Id, fresh.v2Id]],
    ['it is not, and only the statistics know it', [fresh.v2Id]],
  ])('samples are found in a bounded time: %s', { timeout: 120_000 }, async (_, kekIds) => {
    const unsearched: UnsearchedKeks[] = []
    const timed = async (options?: Parameters<typeof store.sampleByKek>[1]) => {
      const times: number[] = []
      for (let round = 0; round < 3; round++) {
        const start = performance.now()
        const rows = await store.sampleByKek(2, options)
        times.push(performance.now() - start)
        expect(rows.map(({ kekId }) => kekId)).toEqual([fresh.v2Id, fresh.v2Id])
      }
      return Math.min(...times)
    }
    const whole = await timed()
    const bounded = await timed({ kekIds, onUnsearched: (part) => void unsearched.push(part) })
    console.info(`${ROWS} dead entries: ${whole.toFixed(0)} ms whole, ${bounded.toFixed(0)} ms bounded`)
    if (slow) expect(bounded).toBeLessThan(whole / 2)
    // The old id alone: no other one can be behind it.
    expect(unsearched.length).toBeGreaterThan(0)
    for (const { kekId } of unsearched) expect(kekId).toBe(old.v2Id)
  })

  it('open goes on, and says what it has not looked at', { timeout: 120_000 }, async () => {
    const events: KeystoreEvent[] = []
    const envelope = await EnvelopeCrypto.open({
      store,
      masterKeys: masterKeyring({ primary: fresh, previous: [old] }),
      format: 'v2',
      onEvent: (event) => events.push(event),
      closeStore: false,
    })
    await envelope.close()
    expect(events.length).toBeGreaterThan(0)
    for (const event of events)
      expect(event).toEqual({ type: 'partlyChecked', kekIds: [old.v2Id], others: false })
  })

  it('a page that ends before a ref reads nothing behind it', async () => {
    const [from, to] = ['4000', '4010']
    const page = { after: { userId: from, version: 0 }, before: { userId: to, version: 0 }, limit: 1000 }
    expect(await store.list({ ...page, kekId: old.v2Id })).toEqual([])
    const [statement] = recorded.sent.slice(-1)
    const bound = ROWS / 4096
    const few = await buffersOf(statement as pg.QueryConfig)
    expect(few).toBeLessThan(20 + 4 * bound)
    const names = (await planOf(recorded.pool, statement as pg.QueryConfig)).map((node) => node['Node Type'])
    expect(names.join()).not.toContain('Seq Scan')

    // The same without an end goes through all entries.
    expect(await store.list({ kekId: old.v2Id, limit: 1000 })).toEqual([])
    const [whole] = recorded.sent.slice(-1)
    expect(await buffersOf(whole as pg.QueryConfig)).toBeGreaterThan(50 * few)
  })
})
