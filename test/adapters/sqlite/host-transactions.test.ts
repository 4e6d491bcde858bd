/** SQLite: a mint waits while others hold the write lock, without stopping the event loop. */
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type SqliteKeyStore, sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { EnvelopeCrypto, generateMasterKey, localMasterKey } from '../../../src/index.js'
import { startChild } from '../../support/child-process.js'
import { type FreshDatabase, freshDatabase, isChosen } from '../../support/databases.js'
import { withLongestStall } from '../../support/event-loop.js'

/** How long locks are held: a wait that blocks the event loop would stop it for as long. */
const HELD_MS = 800
const MOST_STALL_MS = 200
/** A busy machine may stop this process for a while; a wait that blocks does so in every attempt. */
const MEASURED = { retry: 3 }

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

describe.runIf(isChosen('sqlite'))('sqlite: while the lock is held', () => {
  const masterKeys = localMasterKey(generateMasterKey())
  let database: FreshDatabase
  let client: Database.Database
  let store: SqliteKeyStore
  let envelope: EnvelopeCrypto
  let bobs: string

  /** Opens the host's connection and a service on it, and encrypts for bob. */
  async function openOnHost(deadlineMs?: number): Promise<void> {
    client = new Database(database.url)
    client.exec('create table host_rows (id integer primary key)')
    store = sqliteKeyStore({ db: drizzle({ client }) }, deadlineMs === undefined ? {} : { deadlineMs })
    envelope = await EnvelopeCrypto.open({ store, masterKeys, cache: false })
    bobs = await envelope.encrypt('bob', 'of bob')
  }

  beforeEach(async () => {
    database = await freshDatabase('sqlite')
  })
  afterEach(async () => {
    await envelope.close()
    client.close()
    await database.remove()
  })

  describe("by the host's own transaction on the connection we share", () => {
    it("a mint waits for its end and survives the host's ROLLBACK", MEASURED, async () => {
      await openOnHost()
      client.exec('begin')
      client.exec('insert into host_rows values (1)')
      let minted = false
      const { result: token, stallMs } = await withLongestStall(async () => {
        const minting = envelope.encrypt('alice', 'of alice').finally(() => {
          minted = true
        })
        await pause(HELD_MS)
        expect(minted).toBe(false)
        client.exec('rollback')
        return minting
      })
      expect(stallMs).toBeLessThan(MOST_STALL_MS)
      expect(client.prepare('select count(*) from host_rows').pluck().get()).toBe(0)
      expect(client.inTransaction).toBe(false)

      const reopened = await EnvelopeCrypto.open({
        store: sqliteKeyStore({ path: database.url }),
        masterKeys,
      })
      expect(await reopened.decrypt('alice', token)).toBe('of alice')
      await reopened.close()
    })

    it("a mint waits for the host's COMMIT too, and is not part of the host's transaction", async () => {
      await openOnHost()
      client.exec('begin immediate')
      client.exec('insert into host_rows values (1)')
      const minting = envelope.encrypt('alice', 'of alice')
      await pause(50)
      expect(client.prepare('select count(*) from encryption_keys').pluck().get()).toBe(1)
      client.exec('commit')
      expect(await envelope.decrypt('alice', await minting)).toBe('of alice')
      expect(client.prepare('select count(*) from host_rows').pluck().get()).toBe(1)
    })

    it('reads go on', async () => {
      await openOnHost(200)
      client.exec('begin immediate')
      client.exec('insert into host_rows values (1)')
      expect(await envelope.decrypt('bob', bobs)).toBe('of bob')
      expect(await envelope.encrypt('bob', 'more')).toMatch(/^v3:/)
      expect(await store.census()).toMatchObject([{ count: 1 }])
      expect(client.inTransaction).toBe(true)
      client.exec('rollback')
    })

    it('a mint that waits beyond its deadline is a retryable ERR_STORE that says what to do', async () => {
      await openOnHost(150)
      client.exec('begin')
      await expect(envelope.encrypt('alice', 'of alice')).rejects.toMatchObject({
        name: 'StoreError',
        code: 'ERR_STORE',
        retryable: true,
        message: expect.stringMatching(/inside a transaction.*Mint first.*begin the transaction then/s),
      })
      expect(client.inTransaction).toBe(true)
      client.exec('commit')
      const token = await envelope.encrypt('alice', 'of alice')
      expect(await envelope.decrypt('alice', token)).toBe('of alice')
    })

    it('closing the service ends the wait, and leaves the connection and its transaction alone', async () => {
      await openOnHost()
      client.exec('begin')
      const minting = envelope.encrypt('alice', 'of alice')
      minting.catch(() => undefined)
      await pause(20)
      await envelope.close()
      await expect(minting).rejects.toMatchObject({ code: 'ERR_CLOSED' })
      expect(client.inTransaction).toBe(true)
      client.exec('rollback')
    })

    it('migrating waits too', async () => {
      client = new Database(database.url)
      store = sqliteKeyStore({ db: drizzle({ client }) })
      client.exec('begin')
      const ready = store.ready()
      await pause(50)
      client.exec('rollback')
      expect((await ready).applied).toHaveLength(5)
      envelope = await EnvelopeCrypto.open({ store, masterKeys, cache: false })
    })
  })

  describe('by another process', () => {
    it('a mint waits for it and then succeeds', MEASURED, async () => {
      await openOnHost()
      const own = await EnvelopeCrypto.open({ store: sqliteKeyStore({ path: database.url }), masterKeys })
      const holder = startChild('hold-write-lock.mjs', [database.url])
      try {
        expect(await holder.line()).toBe('locked')
        let minted = false
        const { result: token, stallMs } = await withLongestStall(async () => {
          const minting = own.encrypt('alice', 'of alice').finally(() => {
            minted = true
          })
          await pause(HELD_MS)
          expect(minted).toBe(false)
          holder.send('release')
          return minting
        })
        expect(stallMs).toBeLessThan(MOST_STALL_MS)
        expect(await envelope.decrypt('alice', token)).toBe('of alice')
        expect(await holder.ended()).toEqual({ code: 0, stderr: '' })
      } finally {
        holder.kill()
        await own.close()
      }
    })

    it('a mint beyond its deadline is a retryable ERR_STORE; reads go on meanwhile', async () => {
      await openOnHost()
      const own = await EnvelopeCrypto.open({
        store: sqliteKeyStore({ path: database.url }, { deadlineMs: 150 }),
        masterKeys,
      })
      const holder = startChild('hold-write-lock.mjs', [database.url])
      try {
        expect(await holder.line()).toBe('locked')
        const minting = own.encrypt('alice', 'of alice')
        minting.catch(() => undefined)
        expect(await own.decrypt('bob', bobs)).toBe('of bob')
        await expect(minting).rejects.toMatchObject({
          name: 'StoreError',
          code: 'ERR_STORE',
          retryable: true,
          message: expect.stringContaining('SQLITE_BUSY'),
        })
        expect(await own.decrypt('bob', bobs)).toBe('of bob')
        holder.send('release')
        await holder.ended()
        expect(await own.decrypt('alice', await own.encrypt('alice', 'of alice'))).toBe('of alice')
      } finally {
        holder.kill()
        await own.close()
      }
    })
  })
})
