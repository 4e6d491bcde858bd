/** Ids that somebody else chose, in what the library and its command say: they act on no terminal and no log, and fill neither. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  EnvelopeCrypto,
  generateMasterKey,
  localMasterKey,
  type MasterKey,
  MasterKeyError,
} from '../src/index.js'
import { sqlSource } from '../src/sources/sql.js'
import { type CommandStore, commandStore } from './support/command-store.js'
import { dialects } from './support/databases.js'
import { errorOf } from './support/errors.js'
import { backends, freshStore, type TestStore } from './support/fresh-store.js'
import { type RawDatabase, rawDatabase } from './support/raw-database.js'
import { mintedRow, randomRecord } from './support/rows.js'
import { expectPrintable, HOSTILE_ID } from './support/unprintable.js'

const masterKey = localMasterKey(generateMasterKey())
const LONG = 10 * 1024 * 1024

describe.each(backends)('messages on %s', (backend) => {
  let fresh: TestStore
  beforeEach(async () => {
    fresh = await freshStore(backend)
  })
  afterEach(() => fresh.remove())

  function expectShort(error: Error): void {
    expect(error.message.length).toBeLessThan(2000)
    expectPrintable(error.message)
    expect(error.message).not.toContain('\n')
  }

  it('name a user', async () => {
    const envelope = await fresh.open({ masterKeys: masterKey })
    const token = await envelope.encrypt('bob', 'x')
    const alice = await envelope.user(HOSTILE_ID)
    await envelope.rotateUserKey('bob')
    const ofVersion2 = await envelope.encrypt('bob', 'x')
    const works: Record<string, () => unknown> = {
      'no key': () => envelope.decrypt(`${HOSTILE_ID}!`, token),
      'no version': () => alice.decrypt(ofVersion2),
      'no mint': () => envelope.user(`${HOSTILE_ID}!`, { mint: false }),
      rotation: () => envelope.rotateUserKey(`${HOSTILE_ID}!`),
    }
    for (const [name, work] of Object.entries(works)) {
      const error = await errorOf(work)
      expect(error, name).toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
      expect(error.message).toContain('\\u001b')
      expectShort(error)
    }
    await envelope.shredUser(HOSTILE_ID)
    const shredded = await errorOf(envelope.encrypt(HOSTILE_ID, 'x'))
    expect(shredded).toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    expectShort(shredded)
  })

  it('name a KEK id, cut if it is long, and not more than some of many', async () => {
    const kekIds = [HOSTILE_ID, 'x'.repeat(backend === 'postgres' ? 2000 : LONG)]
    const many = Array.from({ length: 50 }, (_, index) => `unknown-${index}`)
    await fresh.store.insertIfAbsent(
      [...kekIds, ...many].map((kekId, index) => randomRecord(`user-${index}`, { kekId })),
    )
    const refused = await errorOf(fresh.open({ masterKeys: masterKey }))
    expect(refused).toMatchObject({ code: 'ERR_UNKNOWN_MASTER_KEY' })
    expectShort(refused)
    expect(refused.message).toContain('and 42 more')
    const envelope = await fresh.open({ masterKeys: masterKey, allowUnknownMasterKeys: true })
    for (const userId of ['user-0', 'user-1']) {
      const error = await errorOf(envelope.encrypt(userId, 'x'))
      expect(error).toMatchObject({ code: 'ERR_UNKNOWN_MASTER_KEY' })
      expectShort(error)
    }
  })

  it('name a master key whose service failed, and one that does not open a row', async () => {
    const fails = () => {
      throw new Error('the client’s own')
    }
    const unwrap = () => {
      throw new MasterKeyError('ERR_UNWRAP_FAILED', 'it is another key')
    }
    const service: MasterKey = { id: HOSTILE_ID, wrap: fails, unwrap }
    const options = { store: fresh.store, closeStore: false }
    const refused = await errorOf(EnvelopeCrypto.open({ ...options, masterKeys: service }))
    expect(refused).toMatchObject({ code: 'ERR_MASTER_KEY' })
    expectShort(refused)
    // With a row under it, it need not wrap anything at once.
    await fresh.store.insertIfAbsent([randomRecord('carol', { kekId: HOSTILE_ID })])
    const envelope = await EnvelopeCrypto.open({ ...options, masterKeys: service })
    const failed = await errorOf(envelope.encrypt('alice', 'x'))
    expect(failed).toMatchObject({ code: 'ERR_MASTER_KEY' })
    expectShort(failed)
    await fresh.store.insertIfAbsent([randomRecord('bob', { kekId: HOSTILE_ID })])
    const unwrapped = await errorOf(envelope.encrypt('bob', 'x'))
    expect(unwrapped).toMatchObject({ code: 'ERR_UNWRAP_FAILED' })
    expectShort(unwrapped)
  })
})

const COMMANDS: readonly [title: string, args: readonly string[]][] = [
  ['status', ['status']],
  ['doctor', ['doctor']],
  ['shred-user, under such a KEK', ['shred-user', '--yes', '--', 'of an unknown KEK']],
  ['rewrap', ['rewrap']],
  ['rotate-user --dry-run', ['rotate-user', '--dry-run', '--', HOSTILE_ID]],
  ['rotate-user --older-than', ['rotate-user', '--older-than', '0']],
  ['prune', ['prune', '--before-version', '1', '--tokens-reencrypted', '--', HOSTILE_ID]],
  ['encrypt', ['encrypt', '--user', HOSTILE_ID]],
  ['shred-user --dry-run', ['shred-user', '--dry-run', '--', HOSTILE_ID]],
  ['shred-user', ['shred-user', '--yes', '--', HOSTILE_ID]],
  ['backup', ['backup', HOSTILE_ID]],
  ['new-master-key', ['new-master-key', HOSTILE_ID]],
  ['an unknown command', [`no-command-${HOSTILE_ID}`]],
]

describe.each(dialects)('the command on %s', (dialect) => {
  let store: CommandStore
  beforeEach(async () => {
    store = await commandStore(dialect)
    await store.use(async (keys) => {
      await keys.insertIfAbsent([
        await mintedRow(store.keys('a').primary, HOSTILE_ID),
        randomRecord('of an unknown KEK', { kekId: HOSTILE_ID }),
        randomRecord('of a long KEK', { kekId: 'x'.repeat(dialect === 'postgres' ? 2000 : 100_000) }),
      ])
    })
  })
  afterEach(() => store.remove())

  // What is printed does not depend on the dialect.
  const some = dialect === 'sqlite' ? COMMANDS : COMMANDS.slice(0, 3)
  it.each(some)('%s prints no character that acts on a terminal, and no long id', (_, args) => {
    const { stdout, stderr } = store.run(args, { input: 'x' })
    expect(stdout.length + stderr.length).toBeGreaterThan(0)
    expect(stdout.length + stderr.length).toBeLessThan(20_000)
    expectPrintable(stdout)
    expectPrintable(stderr)
  })

  it.each(['status', 'doctor', 'rewrap'])('%s --json has the ids whole, and escaped', (command) => {
    const { stdout } = store.run([command, '--json'])
    expectPrintable(stdout)
    expect(JSON.stringify(JSON.parse(stdout))).toContain(JSON.stringify(HOSTILE_ID))
  })
})

describe.each(dialects)('the application’s tables on %s', (dialect) => {
  let app: RawDatabase
  beforeEach(async () => {
    app = await rawDatabase(dialect)
    await app.query('create table secrets (id text primary key, user_id text, secret text)')
  })
  afterEach(() => app.close())

  it('are named in messages, as their columns are, and as the keys of their rows', async () => {
    const shape = { table: 'secrets', key: 'id', owner: 'user_id', column: 'secret' }
    for (const change of [{ table: HOSTILE_ID }, { column: HOSTILE_ID }, { key: HOSTILE_ID }]) {
      const error = await errorOf(sqlSource(app.url, { ...shape, ...change }))
      expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
      expect(error.message).toContain('\\u001b')
      expectPrintable(error.message)
      expect(error.message).not.toContain('\n')
    }
  })
})
