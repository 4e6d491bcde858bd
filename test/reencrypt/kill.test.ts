/** A table is swept while four processes read and update its rows, and sweeps are killed: no value and no update is lost. */
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { EnvelopeCrypto, encryptWithKey, generateMasterKey, masterKeysFromEnv } from '../../src/index.js'
import type { ReencryptReport } from '../../src/reencrypt/index.js'
import { expectSound, killAt, killMoments, seed, TIMEOUT_MS } from '../support/child-kills.js'
import { type ChildScript, reportOf, startChild } from '../support/child-process.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { dialects } from '../support/databases.js'
import { countDeadlocks } from '../support/deadlocks.js'
import { type RawDatabase, rawDatabase } from '../support/raw-database.js'
import { slow } from '../support/slow.js'
import { ACCEPT_V2 } from '../support/tokens.js'

const ROWS = slow ? 100_000 : 2_000
const KILLS = slow ? 10 : 3
const BATCH_SIZE = slow ? 1000 : 100
/** What each process writes at first. In the end all write v3. */
const PROCESSES = ['v3', 'v3', 'v2', 'plaintext'] as const
/** Owners and contexts as in test/children/update-rows.mjs. */
const ownerOf = (id: number) => `user-${id % 50}`
const contextOf = (id: number) => ({ column: 'credentials.api_key', row: String(id) })

const env = { API_KEY_MASTER_KEY: generateMasterKey() }

describe.each(dialects)('%s: a sweep, with four processes at work', (dialect) => {
  const cleanups = cleanUpAfterEach()
  let host: RawDatabase
  beforeEach(async () => {
    host = cleanups.closing(await rawDatabase(dialect))
  })

  function start(script: string, ...args: readonly string[]): ChildScript {
    const child = startChild(script, [host.url, ...args], env)
    cleanups.add(child.kill)
    return child
  }
  const startSweep = () => start('reencrypt.mjs', String(BATCH_SIZE))

  async function withService<T>(work: (envelope: EnvelopeCrypto) => Promise<T>): Promise<T> {
    const store = await openKeyStore(host.url, { deadlineMs: 60_000 })
    const envelope = await EnvelopeCrypto.open({
      store,
      masterKeys: masterKeysFromEnv(env),
      accept: ACCEPT_V2,
    })
    try {
      return await work(envelope)
    } finally {
      await envelope.close()
    }
  }

  /** Fills the table: a third each is plaintext, v2 tokens of the reference, and v3 tokens, some under an old version of the key. */
  function fill(): Promise<void> {
    return withService(async (envelope) => {
      await host.query(
        'create table credentials (id integer primary key, user_id text not null, api_key text not null)',
      )
      const keys = new Map<string, Uint8Array>()
      for (let id = 0; id < 50; id += 1) keys.set(ownerOf(id), await envelope.getOrCreateUserKey(ownerOf(id)))
      const rows: { id: number; user_id: string; api_key: string }[] = []
      for (let id = 0; id < ROWS; id += 1) {
        const [user_id, plaintext] = [ownerOf(id), `row ${id} sequence 0`]
        const values = [
          () => plaintext,
          () => encryptWithKey(plaintext, keys.get(user_id) as Uint8Array),
          () => envelope.encrypt(user_id, plaintext, contextOf(id)),
        ]
        rows.push({ id, user_id, api_key: (await values[id % 3]?.()) ?? '' })
        if (id === ROWS / 2)
          for (let user = 0; user < 10; user += 1) await envelope.rotateUserKey(ownerOf(user))
      }
      await host.insert('credentials', rows)
    })
  }

  it(
    `of ${ROWS} rows that is killed ${KILLS} times loses no value and no update`,
    async ({ annotate }) => {
      await annotate(`KILL_SEED=${seed}`)
      await fill()
      const writers = PROCESSES.map((format, index) =>
        start('update-rows.mjs', String(ROWS), String(index), String(PROCESSES.length), format),
      )
      for (const writer of writers) expect(await writer.line()).toBe('ready')

      let hits = 0
      for (const moment of killMoments(KILLS, Math.floor(ROWS / BATCH_SIZE / (KILLS + 1)), true)) {
        if (await killAt(startSweep(), moment)) hits += 1
        expectSound(host.url)
      }
      expect(hits).toBeGreaterThan(0)

      // The old version of the application is no longer deployed.
      for (const writer of writers.slice(2)) {
        writer.send('v3')
        expect(await writer.line()).toBe('switched')
      }
      const report = await reportOf<ReencryptReport>(startSweep())
      expect(report).toMatchObject({ complete: true, failed: [], left: 0, after: { current: ROWS } })
      expect(report.changed).toBeGreaterThan(0)
      console.info(
        `${dialect}: ${hits} of ${KILLS} kills hit it before its end; ${report.changed} values were left, ${report.skipped} lost to updates`,
      )

      const last = await Promise.all(writers.map(stop))
      const sequences = new Map(
        last.flatMap((written) => Object.entries(written)).map(([id, n]) => [Number(id), n]),
      )
      expect(sequences.size).toBeGreaterThan(0)
      const again = await reportOf<ReencryptReport>(startSweep())
      expect(again).toMatchObject({ complete: true, changed: 0, before: { current: ROWS } })
      await withService(async (envelope) => {
        const rows = await host.query('select id, api_key from credentials')
        expect(rows).toHaveLength(ROWS)
        const items = rows.map(({ id, api_key }) => ({
          userId: ownerOf(Number(id)),
          token: String(api_key),
          context: contextOf(Number(id)),
        }))
        const results = await envelope.decryptMany(items)
        const wrong = rows.filter(({ id }, index) => {
          const result = results[index]
          const expected = `row ${id} sequence ${sequences.get(Number(id)) ?? 0}`
          return result?.ok !== true || result.value !== expected
        })
        expect(wrong.map(({ id }) => id)).toEqual([])
      })
      if (dialect === 'postgres') expect(await deadlocks()).toBe(0)
    },
    TIMEOUT_MS,
  )

  /** Counts deadlocks while the host's own connections stay open. */
  async function deadlocks(): Promise<number> {
    const [row] = await host.query(
      "select count(*)::int as n from pg_stat_activity where datname = current_database() and backend_type = 'client backend'",
    )
    return countDeadlocks(host.url, Number(row?.n))
  }
})

/** @returns the last sequence of each row that it wrote */
async function stop(writer: ChildScript): Promise<Record<string, number>> {
  const lines = writer.rest()
  expect(await writer.ended()).toEqual({ code: 0, stderr: '' })
  return JSON.parse((await lines).at(-1) ?? '')
}
