/** A sweep that is aborted while it looks for the parts of a large table. */
import { describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { EnvelopeCrypto, generateMasterKey, localMasterKey, type Progress } from '../../src/index.js'
import { reencrypt, sqlSource } from '../../src/reencrypt/index.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { dialects } from '../support/databases.js'
import { rawDatabase } from '../support/raw-database.js'

const ROWS = 1000
const BATCH = 10

describe.each(dialects)('a sweep on %s', (dialect) => {
  const cleanups = cleanUpAfterEach()

  it('says that it counts while it looks for the parts of a table, and ends there once it is aborted', async () => {
    const host = cleanups.closing(await rawDatabase(dialect))
    const envelope = cleanups.closing(
      await EnvelopeCrypto.open({
        store: await openKeyStore(host.url),
        masterKeys: localMasterKey(generateMasterKey()),
      }),
    )
    await host.query('create table credentials (id integer primary key, user_id text, api_key text)')
    await host.insert(
      'credentials',
      Array.from({ length: ROWS }, (_, id) => ({ id, user_id: 'alice', api_key: `sk-${id}` })),
    )
    const table = { table: 'credentials', key: 'id', owner: 'user_id', column: 'api_key', context: 'a.b' }
    const source = cleanups.closing(await sqlSource(host.url, table))
    const sweep = async (mostCounts: number) => {
      const controller = new AbortController()
      const progress: Progress[] = []
      const onProgress = (now: Progress) => {
        progress.push(now)
        if (progress.length === mostCounts) controller.abort()
      }
      const signal = controller.signal
      const report = await reencrypt({
        envelope,
        source,
        plaintext: true,
        batchSize: BATCH,
        signal,
        onProgress,
      })
      return { report, phases: progress.map(({ phase }) => phase) }
    }
    const { report, phases } = await sweep(5)
    expect(report).toMatchObject({ complete: false, changed: 0, left: 0, before: { plaintext: 0 } })
    expect(phases).toEqual(Array.from({ length: 5 }, () => 'counting'))
    expect(await host.query("select id from credentials where api_key not like 'sk-%'")).toHaveLength(0)
    const whole = await sweep(Number.POSITIVE_INFINITY)
    expect(whole.report).toMatchObject({ complete: true, changed: ROWS, left: 0 })
    expect(whole.phases.indexOf('sweeping')).toBe(ROWS / BATCH + 1)
  })
})
