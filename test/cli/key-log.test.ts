/** The key log on the command line: who records in it, who refuses a store that lacks keys of it, and who says which are missing. */
import { copyFileSync, existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { VerifyReport } from '../../src/index.js'
import { parseEntry } from '../../src/key-log/entry.js'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { itIf } from '../support/conditional.js'
import { type Dialect, dialects, freshDatabase } from '../support/databases.js'
import { freshKeyLog, type KeyLogFile, madeLine, shredLine } from '../support/key-log-file.js'
import { hasTerminal, onTerminal } from '../support/terminal.js'

let store: CommandStore
let log: KeyLogFile
let env: NodeJS.ProcessEnv
async function begin(dialect: Dialect): Promise<void> {
  store = await commandStore(dialect)
  log = freshKeyLog()
  env = { KEYSTORE_KEY_LOG: log.path }
}
afterEach(async () => {
  log.remove()
  await store.remove()
})
const encrypt = (userId: string, more: NodeJS.ProcessEnv = env) =>
  store.run(['encrypt', '--user', userId], { env: more, input: `secret of ${userId}` })

describe.each(dialects)('on %s', (dialect) => {
  beforeEach(() => begin(dialect))

  it('keeps an application and init from a store that lacks keys; restore brings them back', async () => {
    store.run(['init'], { env })
    const tokens = { alice: encrypt('alice').stdout, bob: encrypt('bob').stdout }
    expect(store.run(['backup', 'b.db']).status).toBe(0)
    expect(encrypt('carol').status).toBe(0)
    const empty = await freshDatabase(dialect)
    try {
      const there = { ...env, KEYSTORE_URL: empty.url, API_KEY_MASTER_KEY_FILE: '' }
      const refused = store.run(['init', '--master-key-file', 'new.key'], { env: there })
      expect(refused.status).toBe(1)
      expect(refused.stderr).toContain('[ERR_KEYS_LOST]')
      expect(refused.stderr).toContain('"carol", version 1')
      expect(existsSync(join(store.folder, 'new.key'))).toBe(false)
      const { stderr } = encrypt('dave', { ...env, KEYSTORE_URL: empty.url })
      expect(stderr).toContain('[ERR_KEYS_LOST]')

      const restored = store.json(['restore', 'b.db'], { env: there })
      expect(restored).toMatchObject({
        status: 1,
        report: {
          copied: 2,
          equal: true,
          lost: { count: 1, keys: [{ userId: 'carol', version: 1, replaced: false }] },
        },
      })
      const again = store.run(['restore', 'b.db'], { env: there })
      expect(again.stdout).toContain('The target still lacks 1 key that the key log names')
      expect(again.stdout).toContain('"carol", version 1, made 20')
      const opened = { KEYSTORE_URL: empty.url }
      expect(store.run(['decrypt', '--user', 'bob'], { env: opened, input: tokens.bob }).stdout).toBe(
        'secret of bob',
      )
      expect(encrypt('dave', { ...env, ...opened }).stderr).toContain('[ERR_KEYS_LOST]')
    } finally {
      await empty.remove()
    }
  })

  it('tells doctor which keys are missing, and is told that they are given up', async () => {
    store.run(['init'], { env })
    encrypt('alice')
    const rows = await store.rows()
    encrypt('bob')
    encrypt('carol')
    await store.use(async (keys) => {
      await keys.remove(await keys.list({ limit: 10 }))
      await keys.insertIfAbsent(rows)
    })
    // Minted anew by somebody without the log.
    encrypt('bob', {})
    const { status, report } = store.json<VerifyReport>(['doctor'], { env })
    expect(status).toBe(1)
    expect(report.findings.filter(({ kind }) => kind === 'keyLost')).toMatchObject([
      {
        severity: 'error',
        userId: 'bob',
        version: 1,
        reason: expect.stringContaining('another key stands in its place'),
      },
      { severity: 'error', userId: 'carol', version: 1, reason: expect.stringContaining('has no such row') },
    ])
    expect(report.counts).toMatchObject({ keyLost: 2 })
    expect(store.run(['doctor', '--give-up-lost-keys'], { env })).toMatchObject({ status: 2 })
    expect(store.run(['doctor', '--give-up-lost-keys', '--yes'])).toMatchObject({ status: 2 })
    expect(encrypt('dave').stderr).toContain('[ERR_KEYS_LOST]')

    const given = store.run(['doctor', '--give-up-lost-keys', '--yes'], { env })
    expect(given.stdout).toContain('Recorded that 2 lost keys are given up.')
    expect(given.stdout).not.toContain('keyLost')
    expect(store.json<VerifyReport>(['doctor'], { env }).report.counts).not.toHaveProperty('keyLost')
    expect(encrypt('dave').status).toBe(0)
    expect(encrypt('carol').status).toBe(0)
  })

  it('is told by doctor which keys the log lacks, and has them recorded', async () => {
    store.run(['init'])
    encrypt('alice', {})
    encrypt('bob', {})
    store.run(['shred-user', 'bob', '--yes'])
    expect(store.run(['doctor'], { env })).toMatchObject({ status: 1 })
    expect(store.run(['doctor', '--record-keys'])).toMatchObject({ status: 2 })
    log.write('')
    const lacking = store.run(['doctor'], { env })
    expect(lacking.stdout).toContain('The key log lacks 1 live key, 1 erasure of the store')
    expect(lacking.status).toBe(0)
    expect(store.json(['doctor'], { env }).report).toMatchObject({ unrecorded: { keys: 1, shredded: 1 } })
    expect(log.lines()).toEqual([''])

    log.remove()
    log = freshKeyLog()
    env = { KEYSTORE_KEY_LOG: log.path }
    const recorded = store.run(['doctor', '--record-keys'], { env })
    expect(recorded.stdout).toContain(`Recorded in ${log.path}: 1 live key, 1 erasure.`)
    expect(recorded.status).toBe(0)
    expect(log.entries().map(({ event, userId }) => `${event} ${userId}`)).toEqual([
      'minted alice',
      'shredded bob',
      'minted alice',
    ])
    expect(store.run(['doctor'], { env }).stdout).not.toContain('The key log lacks')

    await store.use((keys) => keys.remove([{ userId: 'alice', version: 1 }]))
    const lost = store.run(['doctor', '--record-keys'], { env })
    expect(lost.stdout).toContain('Nothing was recorded in the key log')
    expect(lost.status).toBe(1)
  })
})

describe('whatever the dialect', () => {
  beforeEach(() => begin('sqlite'))

  it('gets a line of each command that makes, prunes or shreds a key', async () => {
    store.run(['init'], { env })
    expect(encrypt('alice').status).toBe(0)
    expect(store.run(['rotate-user', 'alice'], { env }).status).toBe(0)
    expect(store.run(['rotate-user', '--older-than', '0'], { env }).status).toBe(0)
    const prune = ['prune', 'alice', '--before-version', '3', '--tokens-reencrypted', '--include-first']
    expect(store.run([...prune, '--dry-run'], { env }).status).toBe(0)
    expect(store.run(prune, { env }).status).toBe(0)
    expect(store.run(['shred-user', 'alice', '--yes'], { env }).stdout).toContain(`Recorded in ${log.path}`)
    expect(
      log.entries().map((entry) => [entry.event, 'version' in entry ? entry.version : entry.versions]),
    ).toEqual([
      ['minted', 1],
      ['rotated', 2],
      ['rotated', 3],
      ['pruned', 1],
      ['pruned', 2],
      ['shredding', [3]],
      ['shredded', [3]],
    ])
    // An empty variable is one that is not set.
    expect(encrypt('bob', { KEYSTORE_KEY_LOG: '' }).status).toBe(0)
    expect(log.lines()).toHaveLength(8)
  })

  it('counts lost keys beyond those that it lists', async () => {
    log.write(Array.from({ length: 1003 }, (_, index) => madeLine(`user-${index}`, new Date())).join(''))
    await store.mint('alice')
    const { report } = store.json<VerifyReport>(['doctor'], { env })
    expect(report.counts).toMatchObject({ keyLost: 1003 })
    expect(report.findings.filter(({ kind }) => kind === 'keyLost')).toHaveLength(1000)
  })

  it('makes no second first key in a file that an older copy has replaced', () => {
    store.run(['init'])
    encrypt('alice')
    copyFileSync(store.url, `${store.url}.monday`)
    const token = encrypt('bob').stdout
    copyFileSync(`${store.url}.monday`, store.url)
    const { status, stdout, stderr } = encrypt('bob')
    expect([status, stdout]).toEqual([1, ''])
    expect(stderr).toContain('[ERR_KEYS_LOST]')
    expect(store.run(['decrypt', '--user', 'bob'], { input: token }).stderr).toContain('[ERR_KEY_NOT_FOUND]')
  })

  describe('the pool', () => {
    const shred = (args: string[]) => store.run(['shred-user', ...args], { env })
    const use = (work: 'encrypt' | 'shred') =>
      store.use(async (keys) => {
        if (work === 'shred') return String((await keys.shred('', { forget: false })).versions)
        const { EnvelopeCrypto } = await import('../../src/index.js')
        const envelope = await EnvelopeCrypto.open({
          store: keys,
          masterKeys: store.keys('a'),
          closeStore: false,
        })
        return envelope.pool.encrypt('x').catch(({ code }) => String(code))
      })

    it('is ended by no line of the log, and made anew by the operator', async () => {
      expect(await use('encrypt')).toContain('v3:')
      log.write(shredLine('', new Date()))
      expect(store.json(['doctor'], { env })).toMatchObject({ status: 0, report: { erasedAgain: [] } })
      expect(await use('encrypt')).toContain('v3:')

      await use('shred')
      expect(await use('encrypt')).toBe('ERR_KEY_SHREDDED')
      const { status, stdout } = store.run(['doctor'])
      expect(status).toBe(1)
      expect(stdout).toContain('poolShredded')
      expect(stdout).toContain('keystore shred-user --pool --forget')

      for (const args of [['--pool', '--yes'], ['--pool', 'alice', '--forget', '--yes'], ['--yes']])
        expect(shred(args).status).toBe(2)
      expect(await use('encrypt')).toBe('ERR_KEY_SHREDDED')
      const forgotten = shred(['--pool', '--forget', '--yes'])
      expect(forgotten.stdout).toContain('Shredded the pool')
      expect(await use('encrypt')).toContain('v3:')
      expect(parseEntry(log.lines().at(-2) ?? '')).toMatchObject({
        event: 'shredded',
        userId: '',
        forget: true,
      })
      expect(store.run(['doctor'], { env }).status).toBe(0)
    })

    itIf(hasTerminal, 'script (util-linux) is not installed')('asks for the word', async () => {
      await use('encrypt')
      const ask = (typed: string) =>
        onTerminal(store.folder, ['shred-user', '--pool', '--forget'], {
          typed,
          env: { KEYSTORE_URL: store.url },
        })
      const refused = ask('\n')
      expect(refused.shown).toContain('All v3 tokens of the pool are lost')
      expect(refused.status).toBe(1)
      expect(await store.rows()).toHaveLength(1)
      expect(ask('pool\n').status).toBe(0)
      expect(await store.rows()).toEqual([])
    })
  })
})
