/** A table that is partitioned by hash, with partitions of partitions: erasure is finished in each, and what is found names each. */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import pg from 'pg'
import { beforeEach, describe, expect, it } from 'vitest'
import { type PostgresKeyStore, postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import type { KeyRecord } from '../../../src/index.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { contentsOf, countRemains, ERASED, keysOf, pending } from '../../support/erased-bytes.js'
import { partitionByHash } from '../../support/partitions.js'
import { randomRecord } from '../../support/rows.js'

const SCHEMA = 'Parted'
const PARTS = ['part_0', 'part_1_0', 'part_1_1']

describe.runIf(isChosen('postgres'))('a table that is partitioned by hash', () => {
  const cleanups = cleanUpAfterEach()
  let url: string
  let admin: pg.Client
  let store: PostgresKeyStore
  let rows: KeyRecord[]

  beforeEach(async () => {
    url = await cleanups.database('postgres')
    admin = await connect()
    await partitionByHash(url, SCHEMA)
    store = cleanups.closing(postgresKeyStore({ url }, { schema: SCHEMA, migrate: 'off', deadlineMs: 5000 }))
    rows = Array.from({ length: 300 }, () => randomRecord(randomBytes(9).toString('base64url')))
    await store.insertIfAbsent(rows)
  })

  async function connect(): Promise<pg.Client> {
    const client = new pg.Client(url)
    await client.connect()
    cleanups.add(() => client.end())
    return client
  }
  const settings = async () =>
    (await store.maintenance.inspect()).filter(
      ({ kind, reason }) => kind === 'setting' && /ANALYZE/.test(reason),
    )

  /** They are others after a rewrite. */
  const files = async () => {
    const { rows } = await admin.query(
      `select relname, relfilenode from pg_class where relname = any ($1) order by 1`,
      [PARTS],
    )
    return new Map(rows.map(({ relname, relfilenode }) => [relname, relfilenode]))
  }

  it('shredded keys leave the files of all partitions, and the others stay', async () => {
    const { rows: found } = await admin.query(
      `select current_setting('data_directory') || '/base/' || oid as folder from pg_database where datname = current_database()`,
    )
    const { folder } = found[0]
    const shredded = rows.slice(0, 200)
    for (const { userId } of shredded) await store.shred(userId, { forget: false })
    const before = await files()
    expect([...before.keys()]).toEqual(PARTS)
    await admin.query('checkpoint')
    if (existsSync(folder)) expect(countRemains(contentsOf(folder), keysOf(shredded))).toBeGreaterThan(0)
    expect(await store.maintenance.finishErasure()).toEqual(ERASED)
    const after = await files()
    for (const part of PARTS) expect(after.get(part)).not.toBe(before.get(part))
    await admin.query('checkpoint')
    if (existsSync(folder)) {
      expect(countRemains(contentsOf(folder), keysOf(shredded))).toBe(0)
      expect(countRemains(contentsOf(folder), keysOf(rows.slice(200)))).toBe(100)
    }
    const live = (await store.list({ limit: 1000 })).filter(({ shreddedAt }) => shreddedAt === null)
    expect(live).toHaveLength(100)
    expect((await admin.query('select 1 from pg_index where indisclustered')).rows).toEqual([])
  })

  it('of which ANALYZE takes samples is reported table by table, and no longer after finishErasure', async () => {
    const named = (await settings()).map(({ reason }) => /alter table (\S+) /.exec(reason)?.[1])
    expect(named).toEqual(
      ['encryption_keys', 'part_0', 'part_1', 'part_1_0', 'part_1_1'].map((name) => `"${SCHEMA}".${name}`),
    )
    expect(await store.maintenance.finishErasure()).toEqual(ERASED)
    expect(await settings()).toEqual([])
    // Made later: settings of columns are not inherited.
    await admin.query(`alter table "${SCHEMA}".encryption_keys detach partition "${SCHEMA}".part_0`)
    await admin.query(`drop table "${SCHEMA}".part_0`)
    await admin.query(
      `create table "${SCHEMA}".later partition of "${SCHEMA}".encryption_keys for values with (modulus 2, remainder 0)`,
    )
    expect(await settings()).toMatchObject([{ reason: expect.stringContaining(`"${SCHEMA}".later`) }])
  })

  it('with a name that must be quoted: the statements that an operator is told to run are right', async () => {
    const quoted = `"Later; drop table ""x"" 'y'"`
    await admin.query(`alter table "${SCHEMA}".encryption_keys detach partition "${SCHEMA}".part_0`)
    await admin.query(
      `create table "${SCHEMA}".${quoted} partition of "${SCHEMA}".encryption_keys for values with (modulus 2, remainder 0)`,
    )
    await store.insertIfAbsent(
      Array.from({ length: 50 }, () => randomRecord(randomBytes(9).toString('base64url'))),
    )
    await admin.query(`analyze "${SCHEMA}".${quoted}`)
    const [setting] = (await settings()).map(({ reason }) => reason).filter((reason) => /Later/.test(reason))
    await admin.query(/: (alter table .* set statistics 0)/.exec(String(setting))?.[1] as string)
    expect((await settings()).filter(({ reason }) => /Later/.test(reason))).toEqual([])
    const { pending: reason } = await store.maintenance.finishErasure()
    await admin.query(/`(delete from pg_statistic .*?)`/.exec(String(reason))?.[1] as string)
    expect(await store.maintenance.finishErasure()).toEqual(ERASED)
  })

  it('of which samples were taken is not erased: they are named', async () => {
    await admin.query('analyze')
    expect(await store.maintenance.finishErasure()).toMatchObject(
      pending(`starelid in ('"${SCHEMA}".encryption_keys'::regclass`),
    )
    await admin.query(
      `delete from pg_statistic where starelid in (select oid from pg_class where relname = 'encryption_keys' or relname like 'part%')`,
    )
    expect(await store.maintenance.finishErasure()).toEqual(ERASED)
  })

  it('one of which is locked, or has no index, is not erased, and is said to be', async () => {
    const other = await connect()
    await other.query('begin')
    await other.query(`lock table "${SCHEMA}".part_1_0 in share update exclusive mode`)
    const unlocked = PARTS.filter((part) => part !== 'part_1_0')
    const before = await files()
    expect(await store.maintenance.finishErasure()).toMatchObject(
      pending(`could not rewrite the table "${SCHEMA}".part_1_0 (SQLSTATE 55P03`),
    )
    const after = await files()
    for (const part of unlocked) expect(after.get(part)).not.toBe(before.get(part))
    await other.query(`lock table "${SCHEMA}".part_0 in share update exclusive mode`)
    expect(await store.maintenance.finishErasure()).toMatchObject(pending('and 1 more that are locked'))
    await other.query('rollback')
    expect(await store.maintenance.finishErasure()).toEqual(ERASED)
    await admin.query(`alter table "${SCHEMA}".encryption_keys drop constraint encryption_keys_pk`)
    expect(await store.maintenance.finishErasure()).toMatchObject(pending(`vacuum full "${SCHEMA}".part_0`))
  })

  it('of many partitions, each has the time of a call', async () => {
    const count = 150
    await admin.query(`alter table "${SCHEMA}".encryption_keys detach partition "${SCHEMA}".part_0`)
    await admin.query(`drop table "${SCHEMA}".part_0`)
    await admin.query(
      `create table "${SCHEMA}".many partition of "${SCHEMA}".encryption_keys for values with (modulus 2, remainder 0) partition by hash (version, user_id)`,
    )
    for (let n = 0; n < count; n += 1)
      await admin.query(
        `create table "${SCHEMA}".many_${n} partition of "${SCHEMA}".many for values with (modulus ${count}, remainder ${n})`,
      )
    const records = Array.from({ length: 3000 }, () => randomRecord(randomBytes(9).toString('base64url')))
    await store.insertIfAbsent(records)
    const hasty = cleanups.closing(
      postgresKeyStore({ url }, { schema: SCHEMA, migrate: 'off', deadlineMs: 250 }),
    )
    const begun = performance.now()
    expect(await hasty.maintenance.finishErasure()).toEqual(ERASED)
    expect(performance.now() - begun).toBeGreaterThan(250)
  })
})
