/** What SECURITY.md says of a reader, a writer and a thief of a backup, and no other test shows: what holds, and what does not. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { generateMasterKey, localMasterKey, masterKeyring, rewrapAll } from '../../src/index.js'
import { queryPostgres } from '../support/databases.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { secretForms, textForms } from '../support/leaks.js'
import { rowsOf } from '../support/rows.js'

const CONTEXT = { column: 'api_key' }

describe.each(backends)('on %s', (backend) => {
  let test: TestStore
  const masterKey = generateMasterKey()
  beforeEach(async () => {
    test = await freshStore(backend, { masterKeys: localMasterKey(masterKey) })
  })
  afterEach(() => test.remove())

  /** All that a reader of the database sees: the rows, and on SQLite the files. */
  async function everythingStored(): Promise<string> {
    const rows = (await rowsOf(test.store)).map((row) => ({
      ...row,
      encryptedKey: Buffer.from(row.encryptedKey).toString('hex'),
    }))
    if (test.url === null) return JSON.stringify(rows)
    if (backend === 'postgres')
      return (
        JSON.stringify(await queryPostgres(test.url, 'select * from encryption_keys')) + JSON.stringify(rows)
      )
    const folder = dirname(test.url)
    const files = readdirSync(folder).map((name) => readFileSync(join(folder, name)).toString('latin1'))
    return files.join('\n') + JSON.stringify(rows)
  }

  it('the database has no plaintext, no data key and no master key', async () => {
    const envelope = await test.open()
    const plaintext = 'a plaintext that must not be stored'
    await envelope.encrypt('alice', plaintext, CONTEXT)
    const dataKey = await envelope.getOrCreateUserKey('alice')
    const stored = await everythingStored()
    // Shows that the search finds what is there.
    expect(stored).toContain('alice')
    for (const form of [
      ...textForms(plaintext),
      ...secretForms(dataKey),
      ...secretForms(Buffer.from(masterKey, 'base64url')),
    ])
      expect(stored.includes(form)).toBe(false)
  })

  it('a backup opens with the master key of its time alone: neither without it nor with the next one', async () => {
    const envelope = await test.open()
    const token = await envelope.encrypt('alice', 'x', CONTEXT)
    const backup = await rowsOf(test.store)
    const next = localMasterKey(generateMasterKey())
    const previous = [localMasterKey(masterKey)]
    await rewrapAll({ store: test.store, masterKeys: masterKeyring({ primary: next, previous }) })
    await envelope.close()
    await test.store.shred('alice', { forget: true })
    await test.store.insertIfAbsent(backup)
    await expect(test.open({ masterKeys: next })).rejects.toMatchObject({ code: 'ERR_UNKNOWN_MASTER_KEY' })
    // The limit: whoever has both has everything.
    expect(await (await test.open()).decrypt('alice', token, CONTEXT)).toBe('x')
  })

  it('not detected: an older token put back, two of one context exchanged, and a version put back after it was pruned', async () => {
    const envelope = await test.open({ cache: false })
    const [older, newer] = [
      await envelope.encrypt('alice', 'old', CONTEXT),
      await envelope.encrypt('alice', 'new', CONTEXT),
    ]
    for (const [token, plaintext] of [
      [older, 'old'],
      [newer, 'new'],
    ] as const)
      expect(await envelope.decrypt('alice', token, CONTEXT)).toBe(plaintext)
    await envelope.rotateUserKey('alice')
    const [first] = await rowsOf(test.store)
    if (first === undefined) throw new Error('no row')
    await test.store.remove([first])
    const later = await test.open({ cache: false })
    await expect(later.decrypt('alice', older, CONTEXT)).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    await test.store.insertIfAbsent([first])
    expect(await (await test.open()).decrypt('alice', older, CONTEXT)).toBe('old')
  })

  it('not detected by a process that starts later without a key log: rows that were deleted', async () => {
    const envelope = await test.open()
    const token = await envelope.encrypt('alice', 'x', CONTEXT)
    await test.store.remove(await rowsOf(test.store))
    const later = await test.open()
    await later.encrypt('alice', 'under a second key', CONTEXT)
    await expect(later.decrypt('alice', token, CONTEXT)).rejects.toMatchObject({
      code: 'ERR_DECRYPTION_FAILED',
    })
  })
})
