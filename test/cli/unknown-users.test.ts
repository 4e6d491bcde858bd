/** Ids of users who have no key, as a typo is one: commands say so, change nothing, and exit with 1. */
import { appendFileSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { itIf } from '../support/conditional.js'
import { dialects } from '../support/databases.js'
import { runSql } from '../support/raw-database.js'
import { hasTerminal, onTerminal } from '../support/terminal.js'

describe.each(dialects)('on %s', (dialect) => {
  let store: CommandStore
  let tokens: Record<string, string>
  beforeEach(async () => {
    store = await commandStore(dialect)
    tokens = await store.mint('alice', 'bob')
  })
  afterEach(() => store.remove())

  const allowed = (...more: string[]) =>
    store.run(['shred-user', 'alcie', '--yes', '--allow-unknown', '--key-log', 'log.jsonl', ...more])

  it.each([
    ['shred-user', 'alcie', '--yes'],
    ['shred-user', 'alcie', '--yes', '--json'],
    ['shred-user', 'alcie', '--yes', '--forget'],
    ['shred-user', 'alcie', '--dry-run'],
    ['shred-user', 'alcie', '--dry-run', '--json'],
    ['prune', 'alcie', '--before-version', '2', '--tokens-reencrypted'],
    ['prune', 'alcie', '--before-version', '2', '--tokens-reencrypted', '--dry-run'],
    ['rotate-user', 'alcie'],
    ['rotate-user', 'alcie', '--dry-run'],
  ])('%s %s %s %s names the user who is not there', async (...args) => {
    const before = await store.rows()
    const { status, stdout, stderr } = store.run(args)
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' })
    expect(stderr).toMatch(/"alcie".* \[ERR_KEY_NOT_FOUND\]\nIs the id right, to the letter/)
    expect(await store.rows()).toEqual(before)
  })

  itIf(hasTerminal, 'script (util-linux) is not installed')('nobody is asked to type such an id', () => {
    const { status, shown } = onTerminal(store.folder, ['shred-user', 'alcie'], {
      typed: 'alcie\n',
      env: { KEYSTORE_URL: store.url },
    })
    expect(shown).toContain('The store has no user "alcie"')
    expect(shown).not.toContain('To shred')
    expect(status).toBe(1)
  })

  it('--allow-unknown leaves a tombstone, recorded, and does not claim that anything was erased', async () => {
    expect(store.run(['shred-user', 'alcie', '--yes']).stderr).toContain('--allow-unknown')
    const { status, stdout } = allowed()
    expect(status).toBe(0)
    expect(stdout).toMatch(
      /^Shredded "alcie" at \S+: no live key was there; every later use is ERR_KEY_SHREDDED\.\n/,
    )
    expect(stdout).toMatch(/\nRecorded in log\.jsonl\.\n$/)
    expect(stdout).not.toMatch(/in no file|Pending|backups/)
    expect(readFileSync(join(store.folder, 'log.jsonl'), 'utf8')).toContain(
      '"event":"shredded","userId":"alcie"',
    )
    expect(store.run(['encrypt', '--user', 'alcie'], { input: 'x' }).stderr).toContain('[ERR_KEY_SHREDDED]')
    expect(await store.decrypt('alice', tokens.alice ?? '')).toBe('secret of alice')
  })

  it('a user whom the key log names is known: a forget that was interrupted is finished', () => {
    const log = join(store.folder, 'log.jsonl')
    const line = {
      event: 'shredding',
      userId: 'gone',
      versions: [1],
      kekIds: [],
      forget: true,
      at: new Date(),
    }
    appendFileSync(log, `${JSON.stringify(line)}\n`)
    const forget = ['shred-user', 'gone', '--forget', '--yes', '--key-log', 'log.jsonl']
    expect(store.run(forget)).toMatchObject({ status: 0 })
    expect(readFileSync(log, 'utf8')).toContain('"event":"shredded","userId":"gone"')
    expect(store.run(forget.map((word) => (word === 'gone' ? 'went' : word)))).toMatchObject({ status: 1 })
  })

  it('a user who was shredded before is known: shredding again is done', async () => {
    expect(store.run(['shred-user', 'bob', '--yes']).status).toBe(0)
    const again = store.run(['shred-user', 'bob', '--yes'])
    expect(again).toMatchObject({ status: 0, stdout: expect.stringContaining('no live key was there') })
    expect(store.run(['shred-user', 'bob', '--dry-run']).stdout).toMatch(
      /"bob" has no live key \(shredded [-0-9]+\)\./,
    )
  })

  it('a user whose row cannot be read is known', async () => {
    const spoilt = dialect === 'sqlite' ? "'yesterday'" : "'infinity'"
    await runSql(
      dialect,
      store.url,
      `update encryption_keys set created_at = ${spoilt} where user_id = 'bob'`,
    )
    expect(store.run(['shred-user', 'bob', '--dry-run']).stdout).toContain(
      '"bob" has rows that cannot be read.',
    )
    expect(store.run(['shred-user', 'bob', '--yes']).status).toBe(0)
  })

  it('a tombstone of a user who had no key has no format and no master key in the census', () => {
    expect(allowed().status).toBe(0)
    const rows = store
      .run(['status'])
      .stdout.split('\n')
      .filter((line) => line.includes('│ shredded │'))
    expect(rows).toEqual([expect.stringMatching(/^│ – +│ – +│ 1 +│ shredded/)])
    expect(store.run(['status']).stdout).not.toMatch(/\bv2\b|Python/)
    expect(store.run(['rewrap', '--dry-run']).stdout).not.toMatch(/v2 |Python/)
  })

  it('decrypt for a user without a key says that --user must be that of the encryption', () => {
    const { status, stderr } = store.run(['decrypt', '--user', 'alcie'], { input: tokens.alice ?? '' })
    expect(status).toBe(1)
    expect(stderr).toMatch(/\[ERR_KEY_NOT_FOUND\]\nGive the same --user that the secret was encrypted for/)
  })
})
