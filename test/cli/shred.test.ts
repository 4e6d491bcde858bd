/** `keystore shred-user`: it asks for confirmation, needs no master key, and says what is left to do. */
import { existsSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { itIf } from '../support/conditional.js'
import { dialects } from '../support/databases.js'
import { hasTerminal, onTerminal } from '../support/terminal.js'

const NO_MASTER_KEY = { API_KEY_MASTER_KEY_FILE: '' }

describe.each(dialects)('on %s', (dialect) => {
  let store: CommandStore
  let tokens: Record<string, string>
  beforeEach(async () => {
    store = await commandStore(dialect)
    tokens = await store.mint('alice', 'bob')
  })
  afterEach(() => store.remove())

  const shred = (args: string[]) => store.run(['shred-user', ...args], { env: NO_MASTER_KEY })

  it('refuses without a terminal unless --yes is given, and shreds nothing in a dry run', async () => {
    const before = await store.rows()
    const refused = shred(['alice', '--key-log', 'log.jsonl'])
    expect(refused.status).toBe(2)
    expect(refused.stderr).toContain('--yes')
    expect(shred(['alice', '--dry-run', '--json'])).toMatchObject({
      status: 0,
      stdout: '{"userId":"alice","versions":[1],"forget":false,"dryRun":true}\n',
    })
    expect(shred(['alice', '--dry-run', '--key-log', 'log.jsonl']).stdout).toContain('"alice" has version 1.')
    expect(await store.rows()).toEqual(before)
    expect(existsSync(join(store.folder, 'log.jsonl'))).toBe(false)
  })

  it('erases every version, writes the receipt to the log, and explains it', async () => {
    store.run(['rotate-user', 'alice'])
    const { status, report } = store.json(['shred-user', 'alice', '--yes', '--key-log', 'log.jsonl'], {
      env: NO_MASTER_KEY,
    })
    expect(status).toBe(0)
    expect(report).toMatchObject({
      userId: 'alice',
      versions: [1, 2],
      kekIds: [store.keys('a').primary.id],
      forget: false,
      erased: dialect === 'sqlite' ? 'file' : 'pending',
    })
    expect(new Date(String(report.at)).toISOString()).toBe(report.at)
    const path = join(store.folder, 'log.jsonl')
    expect(statSync(path).mode & 0o777).toBe(0o600)
    const lines = readFileSync(path, 'utf8').trim().split('\n')
    expect(lines.map((line) => JSON.parse(line))).toMatchObject([
      { event: 'shredding', userId: 'alice', versions: [1, 2] },
      { event: 'shredded', userId: 'alice', versions: [1, 2] },
    ])
    expect(await store.decrypt('alice', tokens.alice ?? '')).toBe('ERR_KEY_SHREDDED')
    expect(await store.decrypt('bob', tokens.bob ?? '')).toBe('secret of bob')

    const said = shred(['bob', '--yes']).stdout
    expect(said).toContain('Shredded "bob"')
    expect(said).toContain('version 1 erased')
    expect(said).toContain('Not recorded outside the database')
    if (dialect === 'sqlite') expect(said).toContain('in no file of the database')
    else expect(said).toMatch(/Pending: .*keystore doctor --finish-erasure/)
    // The command has no store to call.
    expect(said + JSON.stringify(report)).not.toContain('store.maintenance')
  })

  it('with --forget lets a new key be made', async () => {
    expect(shred(['alice', '--yes', '--forget']).stdout).toContain('a new key may be made')
    expect((await store.rows()).map(({ userId }) => userId)).toEqual(['bob'])
    await store.mint('alice')
    expect(await store.decrypt('alice', tokens.alice ?? '')).toBe('ERR_DECRYPTION_FAILED')
  })

  it('shreds nothing when the log cannot be written', async () => {
    const { status, stderr } = shred(['alice', '--yes', '--key-log', 'no/such/folder.jsonl'])
    expect(status).toBe(1)
    expect(stderr).toContain('nothing was shredded')
    expect(await store.decrypt('alice', tokens.alice ?? '')).toBe('secret of alice')
  })

  itIf(hasTerminal, 'script (util-linux) is not installed')(
    'asks on a terminal for the id to be typed',
    async () => {
      const ask = (typed: string, ...args: string[]) =>
        onTerminal(store.folder, ['shred-user', 'alice', ...args], {
          typed,
          env: { KEYSTORE_URL: store.url },
        })
      for (const typed of ['Alice\n', 'yes\n', '\n', '']) {
        const { status, shown } = ask(typed)
        expect(shown).toContain('To shred "alice" type the id:')
        expect(shown).toContain('nothing was shredded')
        expect(status).toBe(1)
      }
      expect(await store.decrypt('alice', tokens.alice ?? '')).toBe('secret of alice')

      const { status, shown } = ask('alice\n')
      expect(shown).toContain('"alice" has version 1.')
      expect(shown).toContain('Shredded "alice"')
      expect(status).toBe(0)
      expect(await store.decrypt('alice', tokens.alice ?? '')).toBe('ERR_KEY_SHREDDED')
    },
  )
})
