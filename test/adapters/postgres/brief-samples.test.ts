/** Samples that `open` takes in a short time: they pass over dead index entries alone, and disturb nobody's transaction. */
import { randomBytes } from 'node:crypto'
import { drizzle } from 'drizzle-orm/node-postgres'
import { drizzle as drizzlePostgresJs } from 'drizzle-orm/postgres-js'
import pg from 'pg'
import postgres from 'postgres'
import { beforeEach, describe, expect, it } from 'vitest'
import { type PostgresKeyStore, postgresKeyStore } from '../../../src/adapters/postgres/store.js'
import { EnvelopeCrypto, type KeystoreEvent, localMasterKey } from '../../../src/index.js'
import { Crowd, rowRanges, sharedPagesOf } from '../../../src/lifecycle/shared-pages.js'
import type { KeyStore, UnsearchedKeks } from '../../../src/store.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'
import { errorOf } from '../../support/errors.js'
import { freshDriverDatabase } from '../../support/postgres-drivers.js'
import { randomRecord } from '../../support/rows.js'

const right = localMasterKey(randomBytes(32))
const wrong = localMasterKey(randomBytes(32))

describe.runIf(isChosen('postgres'))('samples in a short time', () => {
  const cleanups = cleanUpAfterEach()
  let url: string
  beforeEach(async () => {
    url = await cleanups.database('postgres')
    const store = postgresKeyStore({ url })
    const envelope = await EnvelopeCrypto.open({ store, masterKeys: right })
    for (const userId of ['alice', 'bob', 'carol']) await envelope.getOrCreateUserKey(userId)
    await envelope.close()
  })

  const connected = async () => {
    const client = new pg.Client(url)
    await client.connect()
    cleanups.add(() => client.end())
    return client
  }
  const lockFor = async (ms: number) => {
    const client = await connected()
    await client.query('begin')
    await client.query('lock table encryption_keys in access exclusive mode')
    const timer = setTimeout(() => void client.query('rollback'), ms)
    cleanups.add(() => clearTimeout(timer))
  }
  const open = (store: KeyStore, masterKeys = right, events: KeystoreEvent[] = []) =>
    EnvelopeCrypto.open({ store, masterKeys, closeStore: false, onEvent: (event) => events.push(event) })

  const STORES: Record<string, () => PostgresKeyStore> = {
    'a URL': () => postgresKeyStore({ url }),
    'the db on a pool of pg': () => {
      const pool = new pg.Pool({ connectionString: url })
      cleanups.add(() => pool.end())
      return postgresKeyStore({ db: drizzle({ client: pool }) })
    },
    'postgres-js': () => {
      const client = postgres(url, { max: 2, onnotice: () => undefined })
      cleanups.add(() => client.end({ timeout: 1 }))
      return postgresKeyStore({ db: drizzlePostgresJs({ client }) })
    },
    'a Client of pg': () => {
      const client = new pg.Client(url)
      cleanups.add(() => client.end())
      void client.connect()
      return postgresKeyStore({ db: drizzle({ client }) }, { migrate: 'off' })
    },
  }

  it('a locked table is waited for, and another master key is refused', { timeout: 30_000 }, async () => {
    const stores = Object.entries(STORES).map(([name, make]) => [name, cleanups.closing(make())] as const)
    for (const [, store] of stores) await store.ready()
    await lockFor(3000)
    const start = performance.now()
    const refusals = stores.map(async ([name, store]) => {
      const error = await errorOf(open(store, wrong))
      return [name, Reflect.get(error, 'code'), performance.now() - start > 2500]
    })
    expect(await Promise.all(refusals)).toEqual(
      stores.map(([name]) => [name, 'ERR_UNKNOWN_MASTER_KEY', true]),
    )
    await lockFor(500)
    const events: KeystoreEvent[] = []
    await Promise.all(stores.map(([, store]) => open(store, right, events)))
    expect(events).toEqual([])
  })

  it("what the application writes on its Client beside `open` stays, and open stays out of the application's transaction", async () => {
    const client = await connected()
    const store = cleanups.closing(postgresKeyStore({ db: drizzle({ client }) }, { migrate: 'off' }))
    await client.query('create table app (id int)')
    const countRows = async () => (await client.query('select count(*)::int from app')).rows[0].count
    await lockFor(1500)
    let isOpen = false
    const opening = open(store).then(() => {
      isOpen = true
    })
    let inserted = 0
    while (inserted < 10 || !isOpen) {
      await client.query('insert into app values (1)')
      inserted++
    }
    await opening
    expect(await countRows()).toBe(inserted)

    await client.query('begin')
    await client.query('insert into app values (2)')
    await open(store)
    await client.query('rollback')
    expect(await countRows()).toBe(inserted)
  })

  it("open stays out of the application's transaction on PGlite", { timeout: 60_000 }, async () => {
    const database = await freshDriverDatabase('pglite')
    cleanups.add(() => database.remove())
    await cleanups.closing(postgresKeyStore({ db: database.db })).ready()
    const store = cleanups.closing(postgresKeyStore({ db: database.db }, { migrate: 'off' }))
    await database.query('create table app (id int)')
    cleanups.add(() => database.query('drop table app'))
    await database.query('begin')
    await database.query('insert into app values (1)')
    await open(store)
    await database.query('rollback')
    expect(await database.query('select * from app')).toEqual([])
  })

  describe('on a server that', () => {
    type Statement = { readonly text: string; readonly values: readonly unknown[] }
    /** What was sent, before it was rewritten. */
    let sent: Statement[]
    /** @param rewrite gives the statement to execute in another one's place, or undefined */
    const storeWith = (rewrite: (statement: Statement) => string | undefined) => {
      const pool = new pg.Pool({ connectionString: url })
      sent = []
      pool.on('connect', (client) => {
        const query = client.query.bind(client) as (...args: unknown[]) => unknown
        client.query = ((given: pg.QueryConfig | string, values: unknown[] = []) => {
          const statement = { text: typeof given === 'string' ? given : given.text, values }
          sent.push(statement)
          const text = rewrite(statement)
          if (text === undefined) return query(given, values)
          return query(typeof given === 'string' ? text : { ...given, text }, [])
        }) as typeof client.query
      })
      cleanups.add(() => pool.end())
      return cleanups.closing(postgresKeyStore({ pool }, { migrate: 'off' }))
    }
    const SLOW = 'select pg_catalog.pg_sleep(5)'
    /** All ids at once, or those of a gap. */
    const isJump = ({ text }: Statement) => text.startsWith('select * from (with recursive')
    const isOfBlocks = ({ text }: Statement) => text.includes('tablesample')
    const isOfKek = ({ text }: Statement) => /^select \* from "\S+ where/.test(text)
    const isWhole = ({ text }: Statement) => text.includes('with recursive') && !text.startsWith('select *')
    const sample = async (store: KeyStore, kekIds: readonly string[] = [right.id]) => {
      const unsearched: UnsearchedKeks[] = []
      const rows = await store.sampleByKek(3, { kekIds, onUnsearched: (part) => unsearched.push(part) })
      return { rows: rows.length, unsearched, looksWhole: sent.some(isWhole) }
    }
    const WHOLE = { rows: 3, unsearched: [], looksWhole: true }

    it.each<[string, (statement: Statement) => string | undefined]>([
      [
        'has no set_config',
        ({ text }) => (text.includes('set_config') ? 'select no_such_function()' : undefined),
      ],
      [
        'has no lock_timeout',
        ({ text }) => (text.includes('lock_timeout') ? 'set no_such_thing = 1' : undefined),
      ],
      [
        'has no TABLESAMPLE',
        (statement) => (isOfBlocks(statement) ? 'select table sample' : isJump(statement) ? SLOW : undefined),
      ],
      [
        'is too slow for a few blocks',
        (statement) => (isOfBlocks(statement) || isJump(statement) ? SLOW : undefined),
      ],
      [
        'finds nothing in time',
        (statement) =>
          isOfBlocks(statement)
            ? 'select * from encryption_keys where false'
            : isJump(statement) || isOfKek(statement)
              ? SLOW
              : undefined,
      ],
    ])('%s, all of the index is looked through', async (_, rewrite) => {
      expect(await sample(storeWith(rewrite))).toEqual(WHOLE)
    })

    it("cuts off much, each of the caller's ids is looked at", async () => {
      const foreign = ['a', 'b', 'c', 'd', 'e']
      const store = storeWith((statement) => {
        if (isOfBlocks(statement)) return 'select * from encryption_keys where false'
        const isForeign = statement.values.some((value) => foreign.includes(String(value)))
        return isJump(statement) || (isOfKek(statement) && isForeign) ? SLOW : undefined
      })
      const { rows, unsearched, looksWhole } = await sample(store, [...foreign, right.id])
      expect({ rows, looksWhole }).toEqual({ rows: 3, looksWhole: false })
      for (const kekId of foreign) expect(unsearched).toContainEqual({ kekId })
      expect(unsearched).not.toContainEqual({ kekId: right.id })
    })

    it('has somebody who cancels a statement, it is tried again', async () => {
      let cancelled = 0
      const store = storeWith((statement) =>
        isJump(statement) && cancelled++ === 0
          ? 'select pg_catalog.pg_cancel_backend(pg_catalog.pg_backend_pid()), pg_catalog.pg_sleep(1)'
          : undefined,
      )
      expect(await sample(store)).toEqual({ rows: 3, unsearched: [], looksWhole: false })
      expect(cancelled).toBe(2)
      expect(sent.some(isOfBlocks)).toBe(false)
    })
  })

  it('ranges begin at no row whose version is the least that a column can have', async () => {
    const store = cleanups.closing(postgresKeyStore({ url }))
    const client = await connected()
    await client.query(`alter table encryption_keys drop constraint encryption_keys_version_check`)
    const { encryptedKey } = randomRecord('x')
    await client.query(
      `insert into encryption_keys (user_id, version, encrypted_key, kek_id, created_at)
        select md5(i::text), -2147483648, $1, 'foreign', now() from generate_series(1, 2000) i`,
      [encryptedKey],
    )
    const ranges = await rowRanges(store, 2003)
    const rows = { ...ranges, kekId: 'foreign', count: 2000, crowd: new Crowd() }
    let seen = 0
    for await (const page of sharedPagesOf(store, {}, rows, () => seen++)) seen += page.length
    expect(seen).toBe(2000)
  })
})
