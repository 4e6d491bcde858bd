/** `keystore prune`: removal of old versions of one user's key, of the pool's, or of all. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { EnvelopeCrypto } from '../../src/index.js'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { dialects } from '../support/databases.js'

describe.each(dialects)('prune on %s', (dialect) => {
  let store: CommandStore
  beforeEach(async () => {
    store = await commandStore(dialect)
  })
  afterEach(() => store.remove())

  it('removes retired versions once it is told that tokens were re-encrypted', async () => {
    await store.mint('alice')
    for (let round = 0; round < 2; round += 1) store.run(['rotate-user', 'alice'])
    const prune = ['prune', 'alice', '--before-version', '3']
    const untold = store.run(prune)
    expect(untold.status).toBe(2)
    expect(untold.stderr).toContain('--tokens-reencrypted')
    // What changes nothing needs no confirmation.
    expect(store.json([...prune, '--dry-run']).report).toEqual({
      userId: 'alice',
      versions: [2],
      dryRun: true,
    })
    expect(await store.rows()).toHaveLength(3)
    expect(store.run([...prune, '--tokens-reencrypted']).stdout).toContain(
      'Removed 1 version of the key of "alice": 2.',
    )
    expect(store.json([...prune, '--tokens-reencrypted', '--include-first']).report.versions).toEqual([1])
    expect((await store.rows()).map(({ version }) => version)).toEqual([3])
    expect(store.run(['prune', 'alice', '--before-version', 'x', '--tokens-reencrypted']).status).toBe(2)
  })

  it('removes what was made before a time, of all, and fails while somebody has nothing newer', async () => {
    await store.mint('alice', 'bob')
    store.run(['rotate-user', 'alice'])
    await new Promise((resolve) => setTimeout(resolve, 5))
    const began = new Date().toISOString()
    await new Promise((resolve) => setTimeout(resolve, 5))
    store.run(['rotate-user', 'alice'])
    const prune = ['prune', '--all', '--made-before', began, '--tokens-reencrypted', '--include-first']
    const { status, stdout } = store.run(prune)
    expect([status, stdout]).toEqual([
      1,
      expect.stringContaining('Removed 2 versions of the keys of 1 user.'),
    ])
    expect(stdout).toMatch(/1 user has no version made since.*rotate-user.*\n {2}"bob"/)
    store.run(['rotate-user', 'bob'])
    expect(store.json(prune)).toMatchObject({ status: 0, report: { removed: 1, users: 1, notRotated: [] } })
    expect((await store.rows()).map(({ userId, version }) => [userId, version])).toEqual([
      ['alice', 3],
      ['bob', 2],
    ])
    for (const wrong of [
      ['prune', '--all', '--before-version', '2', '--tokens-reencrypted'],
      ['prune', '--all', '--made-before', '2026-11-27', '--tokens-reencrypted'],
      ['prune', '--all', '--pool', '--made-before', began, '--tokens-reencrypted'],
      ['prune', 'alice', '--tokens-reencrypted'],
    ])
      expect([wrong, store.run(wrong).status]).toEqual([wrong, 2])
  })

  it('removes versions of the pool’s key, instead of a user’s', async () => {
    const prune = ['prune', '--before-version', '2', '--tokens-reencrypted', '--include-first']
    expect(store.run([...prune, '--pool']).status).toBe(1)
    await store.use(async (opened) => {
      const settings = { store: opened, masterKeys: store.keys('a'), closeStore: false }
      const envelope = await EnvelopeCrypto.open(settings)
      await envelope.pool.encrypt('of all')
      await envelope.pool.rotate()
    })
    expect(store.run(prune).status).toBe(2)
    expect(store.run([...prune, '--pool', 'alice']).status).toBe(2)
    expect(store.run([...prune, '--pool']).stdout).toContain('Removed 1 version of the key of the pool: 1.')
    expect((await store.rows()).map(({ userId, version }) => [userId, version])).toEqual([['', 2]])
  })
})
