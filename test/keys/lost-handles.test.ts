/** A handle of keys whose rows another connection has deleted says that they were lost, and not that somebody shredded them. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { EnvelopeCrypto, type KeystoreEvent, localMasterKey, type UserHandle } from '../../src/index.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { asAdmin, type Dialect, dialects } from '../support/databases.js'
import { runSql } from '../support/raw-database.js'

const LOST = { code: 'ERR_KEY_NOT_FOUND', message: expect.stringContaining('were lost') }
const WAIT_MS = 20_000

/** By which a process learns that rows are gone which no announcement has named. */
const HINTS: Readonly<Record<Dialect, string>> = {
  sqlite: 'the next poll, which says that something was written',
  postgres: 'the end of the connection that listens, after which anything may have changed',
}

describe.each(dialects)('rows that were deleted past the library on %s', (dialect) => {
  const cleanups = cleanUpAfterEach()
  const events: KeystoreEvent[] = []
  let url: string
  let envelope: EnvelopeCrypto
  let handle: UserHandle
  let token: string

  beforeEach(async () => {
    events.length = 0
    url = await cleanups.database(dialect)
    const store = await openKeyStore(url, dialect === 'sqlite' ? { pollMs: 20 } : {})
    envelope = await EnvelopeCrypto.open({
      store,
      masterKeys: localMasterKey(randomBytes(32)),
      onEvent: (event) => void events.push(event),
    })
    cleanups.add(() => envelope.close())
    token = await envelope.encrypt('alice', 'secret')
    handle = await envelope.user('alice')
    await envelope.encrypt('bob', 'secret')
  })

  async function deleteRows(): Promise<void> {
    await runSql(dialect, url, `delete from encryption_keys where user_id = 'alice'`)
  }

  /** On Postgres nobody announces a row that is deleted past the library, but a new connection may have missed anything. */
  async function endListening(): Promise<void> {
    const pid = `select pg_terminate_backend(pid) from pg_stat_activity
      where datname = current_database() and query ilike 'listen %'`
    if (dialect === 'postgres') await asAdmin(url, pid)
  }

  function expectLost(): void {
    for (const call of [
      () => handle.encrypt('more'),
      () => handle.decrypt(token),
      () => handle.fingerprint('x', { name: 'test' }),
    ]) {
      expect(call).toThrow(expect.objectContaining(LOST))
      expect(call).not.toThrow(/shred/)
    }
    const lost = { type: 'keysLost', users: [{ userId: 'alice', version: 1 }], count: 1 }
    expect(events.filter(({ type }) => type === 'keysLost')).toEqual([lost])
  }

  it(`are lost to a handle after ${HINTS[dialect]}`, async () => {
    await deleteRows()
    await endListening()
    for (const end = performance.now() + WAIT_MS; performance.now() < end; await sleep(20))
      if (events.some(({ type }) => type === 'keysLost')) break
    expectLost()
    expect(handle.userId).toBe('alice')
    await expect(envelope.decrypt('alice', token)).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    expect(await envelope.encrypt('bob', 'more')).toContain('v3:')
  })

  it('are lost to a handle after the next read of the user', async () => {
    await deleteRows()
    await expect(envelope.user('alice', { mint: false })).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    expectLost()
  })

  it('and rows that were shredded meanwhile are shredded, not lost', async () => {
    const other = await openKeyStore(url)
    await other.shred('alice', { forget: false })
    await other.close()
    for (const end = performance.now() + WAIT_MS; performance.now() < end; await sleep(20))
      try {
        handle.encrypt('more')
      } catch (error) {
        expect(error).toMatchObject({ code: 'ERR_KEY_SHREDDED' })
        break
      }
    expect(() => handle.decrypt(token)).toThrow(expect.objectContaining({ code: 'ERR_KEY_SHREDDED' }))
    expect(events.filter(({ type }) => type === 'keysLost')).toEqual([])
  })
})
