/** The sweep's table on Postgres: each call ends at the deadline, and works once the cause is gone. */
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { beforeEach, describe, expect, it } from 'vitest'
import { type PostgresClient, PostgresTable } from '../../src/sources/postgres-table.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { asAdmin, isChosen } from '../support/databases.js'
import { keystoreErrorOf } from '../support/errors.js'
import { type PostgresProxy, postgresProxy } from '../support/postgres-proxy.js'

const DEADLINE_MS = 1000
const SHAPE = { table: 'secrets', key: ['id'], owner: 'owner', columns: ['value'], wholeRows: false }

describe.runIf(isChosen('postgres'))('a table of the sweep on Postgres', () => {
  const cleanups = cleanUpAfterEach()
  let url: string
  let proxy: PostgresProxy
  beforeEach(async () => {
    url = await cleanups.database('postgres')
    proxy = await postgresProxy(url)
    cleanups.add(() => proxy.close())
    await asAdmin(
      url,
      'create table secrets (id int primary key, owner text, value text)',
      `insert into secrets values (1, 'alice', 'old')`,
    )
  })

  const poolOf = async () => {
    const pool = new pg.Pool({ connectionString: proxy.url, max: 4 })
    cleanups.add(() => pool.end())
    await Promise.all(Array.from({ length: 4 }, () => pool.query('select 1')))
    return pool
  }
  const clientOf = async () => {
    const client = new pg.Client(proxy.url)
    client.on('error', () => undefined)
    await client.connect()
    cleanups.add(() => client.end())
    return client
  }
  const lock = async () => {
    const holder = new pg.Client(url)
    await holder.connect()
    await holder.query('begin; lock table secrets in access exclusive mode')
    return () => holder.end()
  }
  const silence = async () => {
    proxy.silence()
    return async () => undefined
  }

  it.each<[string, () => Promise<PostgresClient>, () => Promise<() => Promise<void>>]>([
    ['a pool, whose open connections go silent', poolOf, silence],
    ['a pool, while another session has locked the table', poolOf, lock],
    ['a client, while another session has locked the table', clientOf, lock],
  ])('on %s', async (_, connect, begin) => {
    const client = await connect()
    const table = new PostgresTable(client, SHAPE, DEADLINE_MS)
    await table.check()
    const calls: Record<string, () => Promise<unknown>> = {
      pages: () => table.pages(10).next(),
      lastRows: () => table.lastRows(10),
      countRows: () => table.countRows(),
      replace: () => table.replace([{ key: 1, column: 'value', owner: 'alice', from: 'old', to: 'new' }]),
    }
    const end = await begin()
    // A client has one call at a time.
    const several = Object.entries(calls).slice(client instanceof pg.Pool ? 0 : -1)
    try {
      await Promise.all(
        several.map(async ([name, call]) => {
          const error = await keystoreErrorOf(call())
          expect([name, error.code, error.retryable]).toEqual([name, 'ERR_STORE', true])
          expect(error.message).toMatch(/^The sweep could not .*waited 1000 ms for an answer/)
        }),
      )
    } finally {
      await end()
    }
    // On a client, what was waited for in vain is executed first.
    await sleep(200)
    expect(await table.countRows()).toBe(1)
    for (const call of Object.values(calls)) await call()
  })

  it('on a client, statements on the whole table have several times as long, and then say what to do', async () => {
    const table = new PostgresTable(await clientOf(), SHAPE, DEADLINE_MS / 10)
    await expect
      .poll(() =>
        table.check().then(
          () => true,
          () => false,
        ),
      )
      .toBe(true)
    const endSoon = await lock()
    const counting = table.countRows()
    await sleep(DEADLINE_MS / 2)
    await endSoon()
    expect(await counting).toBe(1)
    const end = await lock()
    try {
      const { message } = await keystoreErrorOf(table.countRows())
      expect(message).toMatch(/waited 2000 ms for an answer.*give the pool a second connection/)
    } finally {
      await end()
    }
  })

  it('check ends too', async () => {
    const pool = await poolOf()
    const table = new PostgresTable(pool, SHAPE, DEADLINE_MS)
    proxy.silence()
    expect(await keystoreErrorOf(table.check())).toMatchObject({ code: 'ERR_STORE', retryable: true })
    expect((await table.check()).columns).toHaveLength(3)
  })
})
