/** Rows that leave a real store past the library, or with an older copy of it: no second first key is made in their place. */
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { EnvelopeCrypto, EnvelopeCryptoOptions, KeystoreEvent } from '../../src/index.js'
import { dialects, isChosen } from '../support/databases.js'
import { freshStore, type TestStore } from '../support/fresh-store.js'
import { freshKeyLog } from '../support/key-log-file.js'
import { runSql } from '../support/raw-database.js'
import { rowsOfUser } from '../support/rows.js'
import { versionOf } from '../support/tokens.js'

const LOST = {
  code: 'ERR_KEY_NOT_FOUND',
  retryable: false,
  message: expect.stringContaining('which this process has used'),
}

const PATIENT = { timeout: 15_000, interval: 50 }

let test: TestStore
let events: KeystoreEvent[]
afterEach(() => test.remove())

async function service(options: Partial<EnvelopeCryptoOptions> = {}): Promise<EnvelopeCrypto> {
  events = []
  return test.open({ onEvent: (event) => events.push(event), ...options })
}

const lost = () => events.filter(({ type }) => type === 'keysLost')

/** Waits until the service has read the rows of alice that are gone. A version that is not cached makes it read. */
async function noticed(envelope: EnvelopeCrypto): Promise<void> {
  await vi.waitFor(async () => {
    await envelope.user('alice', { mint: false }).catch(() => undefined)
    expect(lost()).toHaveLength(1)
  }, PATIENT)
}

describe.each(dialects)('on %s', (dialect) => {
  const url = () => test.url as string
  const deleteAlice = () => runSql(dialect, url(), `delete from encryption_keys where user_id = 'alice'`)
  beforeEach(async () => {
    test = await freshStore(dialect)
  })

  it.each([{}, { cache: false as const }])(
    'deleted rows are an event, and not replaced (%j)',
    async (options) => {
      // Without a cache only the key log tells who was forgotten.
      const log = freshKeyLog()
      const envelope = await service('cache' in options ? { ...options, keyLog: log.path } : options)
      const token = await envelope.encrypt('alice', 'x')
      const rows = await rowsOfUser(test.store, 'alice')
      await deleteAlice()
      await noticed(envelope)
      for (let i = 0; i < 2; i++) await expect(envelope.encrypt('alice', 'y')).rejects.toMatchObject(LOST)
      const [bulk] = await envelope.encryptMany([{ userId: 'alice', plaintext: 'y' }])
      expect(bulk).toMatchObject({ ok: false, error: LOST })
      await expect(envelope.scope('alice', () => undefined)).rejects.toMatchObject(LOST)
      expect(await rowsOfUser(test.store, 'alice')).toEqual([])
      expect(lost()).toEqual([{ type: 'keysLost', users: [{ userId: 'alice', version: 1 }], count: 1 }])

      await test.store.maintenance?.restore(rows)
      expect(await envelope.decrypt('alice', token)).toBe('x')
      expect(await envelope.decrypt('alice', await envelope.encrypt('alice', 'y'))).toBe('y')
    },
  )

  it('a deleted higher version is an event, and nothing is written under a lower one', async () => {
    const log = freshKeyLog()
    const envelope = await service({ keyLog: log.path })
    const token = await envelope.encrypt('alice', 'x')
    await envelope.rotateUserKey('alice')
    const handle = await envelope.user('alice')
    const rows = await rowsOfUser(test.store, 'alice')
    const deleteSecond = `delete from encryption_keys where user_id = 'alice' and version = 2`
    await runSql(dialect, url(), deleteSecond)
    await noticed(envelope)
    expect(lost()).toEqual([{ type: 'keysLost', users: [{ userId: 'alice', version: 2 }], count: 1 }])
    for (let i = 0; i < 2; i++) await expect(envelope.encrypt('alice', 'y')).rejects.toMatchObject(LOST)
    await expect(envelope.rotateUserKey('alice')).rejects.toMatchObject(LOST)
    const [bulk] = await envelope.encryptMany([{ userId: 'alice', plaintext: 'y' }])
    expect(bulk).toMatchObject({ ok: false, error: LOST })
    expect(() => handle.encrypt('y')).toThrow('were lost')
    expect(await envelope.decrypt('alice', token)).toBe('x')
    expect(lost()).toHaveLength(1)

    await test.store.maintenance?.restore(rows)
    expect(await envelope.decrypt('alice', await envelope.encrypt('alice', 'y'))).toBe('y')

    await runSql(dialect, url(), deleteSecond)
    await vi.waitFor(async () => {
      await envelope.user('alice', { mint: false }).catch(() => undefined)
      await expect(envelope.encrypt('alice', 'y')).rejects.toMatchObject(LOST)
    }, PATIENT)
    const createdAt = rows[1]?.createdAt
    const given = { event: 'lost', userId: 'alice', version: 2, kekId: null, createdAt, at: new Date() }
    log.append(`${JSON.stringify(given)}\n`)
    const next = await vi.waitFor(async () => {
      const [result] = await envelope.encryptMany([{ userId: 'alice', plaintext: 'y' }])
      if (result?.ok !== true) throw result?.error
      return result.value
    }, PATIENT)
    expect(versionOf(next)).toBe(1)
    log.remove()
  })

  it('rows of a user who was shredded here, which an older copy brings back, stay unused', async () => {
    const envelope = await service({ cache: { ttlMs: 50 } })
    const token = await envelope.encrypt('alice', 'x')
    const rows = await rowsOfUser(test.store, 'alice')
    await envelope.shredUser('alice')
    const other = await test.another()
    await other.shred('alice', { forget: true })
    await other.maintenance?.restore(rows)
    // Longer than the second for which shredded users are not asked for.
    await sleep(1200)
    for (let i = 0; i < 2; i++) {
      await expect(envelope.decrypt('alice', token)).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
      await expect(envelope.encrypt('alice', 'y')).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
      await sleep(1200)
    }
    await other.shred('alice', { forget: true })
    await vi.waitFor(() => envelope.encrypt('alice', 'y'), PATIENT)
  })

  it('a user whom another process forgets gets a new key: by name on Postgres, by the key log on both', async () => {
    const log = freshKeyLog()
    const envelope = await service({ keyLog: log.path })
    await envelope.encrypt('alice', 'x')
    const other = await test.open({ store: await test.another(), keyLog: log.path })
    await other.shredUser('alice', { forget: true })
    const token = await vi.waitFor(async () => {
      await envelope.user('alice', { mint: false }).catch(() => undefined)
      const token = await envelope.encrypt('alice', 'y')
      expect(await rowsOfUser(test.store, 'alice')).toHaveLength(1)
      return token
    }, PATIENT)
    expect(await other.decrypt('alice', token)).toBe('y')
    // The log says that she was forgotten.
    expect(lost()).toEqual([])
    log.remove()
  })

  it('keys that the log says are given up may be made anew', async () => {
    const log = freshKeyLog()
    const envelope = await service({ keyLog: log.path })
    await envelope.encrypt('alice', 'x')
    const createdAt = (await rowsOfUser(test.store, 'alice'))[0]?.createdAt
    await deleteAlice()
    await noticed(envelope)
    await expect(envelope.encrypt('alice', 'y')).rejects.toMatchObject(LOST)
    const at = new Date()
    log.append(
      `${JSON.stringify({ event: 'lost', userId: 'alice', version: 1, kekId: null, createdAt, at })}\n`,
    )
    // The log is read once a second at most.
    await vi.waitFor(() => envelope.encrypt('alice', 'y'), PATIENT)
    log.remove()
  })
})

describe.runIf(isChosen('postgres'))('on postgres', () => {
  beforeEach(async () => {
    test = await freshStore('postgres')
  })

  it('rows that went while the notifications were down are not replaced', async () => {
    const envelope = await service()
    await envelope.encrypt('alice', 'x')
    const killed = `select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()
      and pid <> pg_backend_pid() and query ilike 'listen %'`
    await vi.waitFor(
      async () => expect(await runSql('postgres', test.url as string, killed)).toHaveLength(1),
      {
        timeout: 15_000,
      },
    )
    await runSql('postgres', test.url as string, `delete from encryption_keys where user_id = 'alice'`)
    await noticed(envelope)
    await expect(envelope.encrypt('alice', 'y')).rejects.toMatchObject(LOST)
  })

  it("rows of a user whom another process has rotated are lost: the rotation's announcement forgets nobody", async () => {
    const envelope = await service()
    await envelope.encrypt('alice', 'x')
    const other = await test.open({ store: await test.another() })
    await other.rotateUserKey('alice')
    // Announced after the rotation: who has heard of this has heard of that.
    await envelope.encrypt('bob', 'x')
    await other.rotateUserKey('bob')
    await vi.waitFor(async () => expect(versionOf(await envelope.encrypt('bob', 'x'))).toBe(2), PATIENT)
    await runSql('postgres', test.url as string, `delete from encryption_keys where user_id = 'alice'`)
    await expect(envelope.encrypt('alice', 'y')).rejects.toMatchObject(LOST)
    expect(lost()).toHaveLength(1)
  })

  it('rows that went with a truncated table are not replaced', async () => {
    const envelope = await service()
    await envelope.encrypt('alice', 'x')
    await runSql('postgres', test.url as string, 'truncate encryption_keys')
    await noticed(envelope)
    await expect(envelope.encrypt('alice', 'y')).rejects.toMatchObject(LOST)
  })
})

describe.runIf(isChosen('sqlite'))('on sqlite', () => {
  beforeEach(async () => {
    test = await freshStore('sqlite')
  })

  it('rows that an older copy lacks, which was restored into the open file, are not replaced', async () => {
    const url = test.url as string
    const envelope = await service()
    await envelope.encrypt('bob', 'x')
    const copy = new Database(url, { readonly: true })
    await copy.backup(`${url}.older`)
    copy.close()
    await envelope.encrypt('alice', 'x')
    // As `.restore` of the sqlite3 shell does: a transaction writes the pages of the copy.
    const older = new Database(`${url}.older`)
    await older.backup(url)
    older.close()
    await noticed(envelope)
    await expect(envelope.encrypt('alice', 'y')).rejects.toMatchObject(LOST)
    expect(await envelope.encrypt('bob', 'y')).toContain('v3:')
  })
})
