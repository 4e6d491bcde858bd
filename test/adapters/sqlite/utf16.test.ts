/** A host's database whose texts are UTF-16: rows come in another order than in every other store. */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../../src/adapters/memory.js'
import { sqliteKeyStore } from '../../../src/adapters/sqlite/store.js'
import { copyKeys, EnvelopeCrypto, localMasterKey, masterKeyring, rewrapAll } from '../../../src/index.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'
import { isChosen } from '../../support/databases.js'

const USERS = Array.from({ length: 1200 }, (_, i) => `${[...'aéΩ中🔑Жｘ'][i % 7]}${i}`)

describe.runIf(isChosen('sqlite')).each(['UTF-16le', 'UTF-16be'])('a host database in %s', (encoding) => {
  const cleanups = cleanUpAfterEach()

  async function filled() {
    const client = new Database(join(cleanups.folder(), 'host.db'))
    cleanups.add(() => void client.close())
    client.pragma(`encoding = '${encoding}'`)
    const store = cleanups.closing(sqliteKeyStore({ db: drizzle({ client }) }))
    const master = localMasterKey(randomBytes(32))
    const envelope = await EnvelopeCrypto.open({ store, masterKeys: master, closeStore: false })
    await Promise.all(USERS.map((user) => envelope.getOrCreateUserKey(user)))
    await envelope.close()
    return { store, master, client }
  }

  it('is rewrapped in one pass', async () => {
    const { store, master, client } = await filled()
    expect(client.pragma('encoding', { simple: true })).toBe(encoding)
    const primary = localMasterKey(randomBytes(32))
    const masterKeys = masterKeyring({ primary, previous: [master] })
    const phases: string[] = []
    const onProgress = ({ phase, done }: { phase: string; done: number }) => {
      if (phase === 'rewrapping' && done === 0) phases.push(phase)
    }
    const report = await rewrapAll({ store, masterKeys, batchSize: 100, onProgress })
    expect(report).toMatchObject({ complete: true, changed: USERS.length, skipped: 0, failedCount: 0 })
    expect(phases).toHaveLength(1)
  })

  it('is copied user by user; a whole copy is refused with the reason', async () => {
    const { store } = await filled()
    const to = memoryKeyStore()
    await expect(copyKeys({ from: store, to })).rejects.toThrow('In SQLite `pragma encoding` must be UTF-8')
    const users = USERS.slice(0, 60)
    expect(await copyKeys({ from: store, to: memoryKeyStore(), only: { users } })).toMatchObject({
      copied: 60,
      equal: true,
    })
  })
})
