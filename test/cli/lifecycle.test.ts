/** The operator's commands on keys that change: exit codes, reports, what a dry run leaves alone. */
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import {
  type DatedCensusRow,
  EnvelopeCrypto,
  type Finding,
  generateMasterKey,
  localMasterKey,
  masterKeysFromEnv,
  type VerifyReport,
} from '../../src/index.js'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { dialects } from '../support/databases.js'
import { alterRow, corrupted, v2Row } from '../support/rows.js'

const BOTH_KEYS = ['--master-key-file', 'keys/b.key', '--previous-key-file', 'keys/a.key']

/** The server of the tests runs without fsync, which doctor minds. */
const isOurs = ({ reason }: Finding) => !reason.startsWith('fsync is off')

describe.each(dialects)('on %s', (dialect) => {
  let store: CommandStore
  beforeEach(async () => {
    store = await commandStore(dialect)
  })
  afterEach(() => store.remove())

  describe('status', () => {
    it('counts by format, master key, version and age, without a master key', async () => {
      await store.mint('alice', 'bob', 'carol')
      await store.use(async (keys) => {
        await keys.insertIfAbsent([v2Row(localMasterKey(generateMasterKey()), { userId: 'dave' })])
        await keys.shred('carol', { forget: false })
      })
      const env = { API_KEY_MASTER_KEY_FILE: '' }
      const { id } = store.keys('a').primary
      const { status, report } = store.json<DatedCensusRow[]>(['status'], { env })
      expect(status).toBe(0)
      expect(report).toMatchObject(
        [
          { kekId: id, version: 1, shredded: false, count: 2 },
          { kekId: id, version: 1, shredded: true, count: 1 },
          { kekId: expect.stringMatching(/^local-v2:/), version: 1, shredded: false, count: 1 },
        ].sort((a, b) => (String(a.kekId) < String(b.kekId) ? -1 : 1)),
      )
      for (const { oldest, newest } of report) {
        expect(new Date(oldest).toISOString()).toBe(oldest)
        expect(Date.now() - new Date(newest).getTime()).toBeLessThan(60_000)
      }
      const { stdout, stderr } = store.run(['status'], { env })
      // It reads every row, which takes its time in a large store.
      expect(stderr).toBe('counting …\n')
      expect(stdout).toMatch(/│ v3 +│ local:\S+ +│ 1 +│ live +│ 2 +│ █{10}░{10} +50 % │ \d{4}-\d\d-\d\d │/)
      expect(stdout).toMatch(/│ v2 +│ local-v2:\S+ +│ 1 +│ live +│ 1 +│ █{5}░{15} +25 % │/)
      expect(stdout).toContain('3 live keys, 1 shredded')
    })

    it('neither makes nor migrates a store', () => {
      const { status, stderr } = store.run(['status'])
      expect(status).toBe(1)
      expect(stderr).toContain('[ERR_SCHEMA]')
      if (dialect === 'sqlite') expect(() => statSync(store.url)).toThrow('ENOENT')
    })
  })

  describe('rewrap', () => {
    it('changes nothing in a dry run, then all, and says that no row needs the old key', async () => {
      const tokens = await store.mint('alice', 'bob')
      const before = await store.rows()
      const dry = store.json(['rewrap', ...BOTH_KEYS, '--dry-run'])
      expect(dry).toMatchObject({
        status: 0,
        report: { dryRun: true, complete: true, changed: 2, failedCount: 0 },
      })
      expect(await store.rows()).toEqual(before)
      expect(store.run(['rewrap', ...BOTH_KEYS, '--dry-run']).stdout).toContain('Would rewrap 2 keys')

      const done = store.run(['rewrap', ...BOTH_KEYS])
      expect(done.status).toBe(0)
      expect(done.stdout).toContain(`Rewrapped 2 keys under ${store.keys('b').primary.id}`)
      expect(done.stdout).toMatch(/│ local:\S+ +│ previous +│ 0 +│ no: no row is under it +│/)
      expect(done.stdout).toContain('Pool tokens of format v2, if the application has ever used this format')
      expect(done.stderr).toContain('rewrapping: 2 of 2')
      expect(await store.decrypt('bob', tokens.bob ?? '', 'b')).toBe('secret of bob')

      const again = store.json(['rewrap', ...BOTH_KEYS])
      expect(again).toMatchObject({ status: 0, report: { changed: 0, skipped: 0, failed: [] } })
      expect(again.report.masterKeys).toEqual([
        { kekId: store.keys('b').primary.id, primary: true, rows: 2, noRowNeedsIt: false },
        { kekId: store.keys('a').primary.id, primary: false, rows: 0, noRowNeedsIt: true },
      ])
      expect(again.report.warnings).toHaveLength(2)
    })
  })

  describe('rotate-user', () => {
    it('makes a new version for one user; old tokens still open', async () => {
      const tokens = await store.mint('alice', 'bob')
      const before = await store.rows()
      expect(store.json(['rotate-user', 'alice', '--dry-run'])).toEqual({
        status: 0,
        report: { userId: 'alice', version: 2, rotated: true, dryRun: true },
      })
      expect(await store.rows()).toEqual(before)
      expect(store.json(['rotate-user', 'alice']).report).toEqual({
        userId: 'alice',
        version: 2,
        rotated: true,
        dryRun: false,
      })
      expect(store.run(['rotate-user', 'alice']).stdout).toContain('Made version 3 of the key of "alice"')
      expect(await store.decrypt('alice', tokens.alice ?? '')).toBe('secret of alice')
      expect((await store.rows()).map(({ userId, version }) => `${userId} ${version}`)).toEqual([
        'alice 1',
        'alice 2',
        'alice 3',
        'bob 1',
      ])
    })

    it('rotates all that are older than an age', async () => {
      await store.mint('alice', 'bob')
      expect(store.json(['rotate-user', '--older-than', '90d'])).toMatchObject({
        status: 0,
        report: { rotated: 0, young: 2 },
      })
      expect(store.json(['rotate-user', '--older-than', '0', '--dry-run'])).toMatchObject({
        report: { rotated: 2, dryRun: true },
      })
      expect(await store.rows()).toHaveLength(2)
      expect(store.run(['rotate-user', '--older-than', '0']).stdout).toContain('Rotated the keys of 2 users')
      expect(await store.rows()).toHaveLength(4)
    })
  })

  describe('doctor', () => {
    it('finds nothing in a store that is in order', async () => {
      await store.mint('alice', 'bob')
      const { status, report } = store.json<VerifyReport>(['doctor'])
      expect(report).toMatchObject({ complete: true, ok: true, rows: 2 })
      expect(report.findings.filter(isOurs)).toEqual([])
      expect(status).toBe(0)
      expect(store.run(['doctor']).stdout).toMatch(
        /2 rows looked at: (nothing is wrong|0 errors, 1 warning)\./,
      )
    })

    it('names each bad row, and exits with 1', async () => {
      await store.mint('alice', 'bob')
      await store.use((keys) =>
        alterRow(keys, { userId: 'bob', version: 1 }, ({ encryptedKey }) => ({
          encryptedKey: corrupted(encryptedKey),
        })),
      )
      const { status, report } = store.json<VerifyReport>(['doctor'])
      expect(status).toBe(1)
      expect(report.findings.filter(isOurs)).toMatchObject([
        {
          severity: 'error',
          kind: 'undecryptable',
          userId: 'bob',
          version: 1,
          kekId: store.keys('a').primary.id,
        },
      ])
      const { stdout } = store.run(['doctor'])
      expect(stdout).toContain('error: undecryptable (1)')
      expect(stdout).toContain('"bob", version 1')
      expect(stdout).toContain('2 rows looked at: 1 error, ')
    })

    it('warns of v2 wraps where they are accepted, and else calls them errors', async () => {
      await store.use(async (keys) => {
        const first = store.keys('a').local[0]
        if (first !== undefined) await keys.insertIfAbsent([v2Row(first, {})])
      })
      const refused = store.run(['doctor'])
      expect(refused.status).toBe(1)
      expect(refused.stdout).toContain('`npx keystore rewrap --accept-v2` upgrades them')
      expect(store.json(['doctor', '--accept-v2'])).toMatchObject({
        status: 0,
        report: { ok: true, counts: { v2Wrap: 1 } },
      })
    })

    it('says once what is wrong with many rows, with their number and the first of them', async () => {
      await store.mint('alice', 'bob', 'carol', 'dave')
      const env = { API_KEY_MASTER_KEY_FILE: 'keys/b.key' }
      const { status, stdout } = store.run(['doctor'], { env })
      expect(status).toBe(1)
      expect(stdout).toContain('error: unknownMasterKey (4)')
      const lines = stdout.split('\n').filter((line) => line.includes(store.keys('a').primary.id))
      expect(lines[0]).toContain(
        '  4 rows, such as "alice", version 1; "bob", version 1; "carol", version 1: ',
      )
      // The other line is the master key's in the table.
      expect(lines).toHaveLength(2)
      const { report } = store.json<VerifyReport>(['doctor'], { env })
      expect(report.findings.filter(isOurs)).toHaveLength(4)
    })

    it('finds out before the long work that there is no schema file, or no database is named', async () => {
      await store.mint('alice')
      const none = store.run(['doctor', '--schema', 'none.js', '--db', 'app.db'])
      expect(none).toMatchObject({ status: 2, stdout: '' })
      expect(none.stderr).toMatch(/^keystore: There is no schema file none\.js/)
      writeFileSync(join(store.folder, 'schema.js'), '')
      const unnamed = store.run(['doctor', '--schema', 'schema.js'], { env: { DATABASE_URL: undefined } })
      expect(unnamed).toMatchObject({ status: 2, stdout: '' })
      expect(unnamed.stderr).toMatch(/^keystore: schema\.js exports no registry.*--db URL, or \$DATABASE_URL/)
    })

    it('reports a schema that is behind, and changes nothing', async () => {
      if (dialect === 'sqlite') writeFileSync(store.url, '', { mode: 0o600 })
      writeFileSync(join(store.folder, 'log.jsonl'), '')
      const options = ['--key-log', 'log.jsonl', '--finish-erasure']
      const { status, report } = store.json<VerifyReport>(['doctor', ...options])
      expect(status).toBe(1)
      expect(report).toMatchObject({ ok: false, complete: false })
      expect(report.findings.filter(isOurs)).toMatchObject([{ severity: 'error', kind: 'schemaVersion' }])
      expect(report).not.toHaveProperty('erasedAgain')
      expect(report).not.toHaveProperty('erasure')
      expect(store.run(['migrate', '--check']).status).toBe(1)
    })

    it('applies a key log, and finishes the erasure', async () => {
      await store.mint('alice', 'bob')
      const rows = await store.rows()
      store.run(['shred-user', 'alice', '--yes', '--key-log', 'log.jsonl'])
      // As if an old copy of the table had come back.
      await store.use(async (keys) => {
        await keys.remove(rows)
        await keys.insertIfAbsent(rows)
      })
      const { status, report } = store.json(['doctor', '--key-log', 'log.jsonl', '--finish-erasure'])
      expect(status).toBe(0)
      expect(report).toMatchObject({
        erasedAgain: ['alice'],
        erasure: { erased: 'file', pending: null },
        ok: true,
      })
      expect((await store.rows())[0]?.encryptedKey).toHaveLength(0)
      const again = store.run(['doctor', '--key-log', 'log.jsonl', '--finish-erasure'])
      expect(again.stdout).toContain('The key log erased 0 users again.')
      expect(again.stdout).toContain('The erasure is finished')
      expect(store.run(['doctor', '--key-log', 'none.jsonl'])).toMatchObject({ status: 1 })
    })
  })
})

describe('new-master-key', () => {
  let store: CommandStore
  beforeEach(async () => {
    store = await commandStore('sqlite')
  })
  afterEach(() => store.remove())

  it('makes a file of mode 0600 that works, and says what to do next', async () => {
    const { status, stdout, stderr } = store.run(['new-master-key', 'fresh/new.key'])
    expect({ status, stdout }).toEqual({ status: 0, stdout: '' })
    expect(stderr).toContain('keystore rewrap')
    expect(statSync(join(store.folder, 'fresh/new.key')).mode & 0o777).toBe(0o600)
    expect(stderr).not.toContain(readFileSync(join(store.folder, 'fresh/new.key'), 'utf8').trim())
    await store.mint('alice')
    const keys = ['--master-key-file', 'fresh/new.key', '--previous-key-file', 'keys/a.key']
    expect(store.run(['rewrap', ...keys]).status).toBe(0)
  })

  it('says how the application is given its first one, with the line to type', async () => {
    const inFile = store.run(['new-master-key', 'my keys/m.key']).stderr
    expect(inFile).toContain("\n  export API_KEY_MASTER_KEY_FILE='my keys/m.key'\n")
    const printed = store.run(['new-master-key']).stderr
    expect(printed).toContain('API_KEY_MASTER_KEY=… in the environment of the application')
    for (const said of [inFile, printed])
      expect(said).toMatch(
        /first master key.*masterKeysFromEnv\(\).*localMasterKey\(.*KeyStore\(\{ db \}\).*a master key already/s,
      )
    // The lines of the application work as they stand.
    const env = { API_KEY_MASTER_KEY_FILE: join(store.folder, 'my keys/m.key') }
    const envelope = await EnvelopeCrypto.open({
      store: memoryKeyStore(),
      masterKeys: masterKeysFromEnv(env),
    })
    expect(await envelope.decrypt('alice', await envelope.encrypt('alice', 'x'))).toBe('x')
    await envelope.close()
    expect(store.run(['new-master-key', '--help']).stdout.replace(/\s+/g, ' ')).toContain(
      'The first one of an application, or the next one',
    )
  })

  it('never overwrites one', () => {
    const before = readFileSync(join(store.folder, 'keys/a.key'), 'utf8')
    const { status, stderr } = store.run(['new-master-key', 'keys/a.key'])
    expect(status).toBe(1)
    expect(stderr).toContain('keys/a.key is there already')
    expect(readFileSync(join(store.folder, 'keys/a.key'), 'utf8')).toBe(before)
  })

  it('prints the key alone on standard output, and makes no file', () => {
    const files = readdirSync(store.folder)
    const [first, second] = [store.run(['new-master-key']), store.run(['new-master-key'])]
    expect(first.stdout).toMatch(/^[\w-]{43}=\n$/)
    expect(first.stdout).not.toBe(second.stdout)
    expect(first.stderr).toContain('keystore rewrap')
    expect(first.stderr).not.toContain(first.stdout.trim())
    expect(readdirSync(store.folder)).toEqual(files)
  })
})

describe('whatever the store', () => {
  let store: CommandStore
  beforeEach(async () => {
    store = await commandStore('sqlite')
  })
  afterEach(() => store.remove())

  it.each([
    [[], 'exactly one'],
    [['alice', '--older-than', '0'], 'exactly one'],
    [['--older-than', '90'], '90d'],
    [['--older-than', '-1d'], '90d'],
    [['--older-than', '1y'], '90d'],
    [['alice', 'bob'], 'too many arguments'],
  ])('rotate-user exits with 2 for %j', async (args, said) => {
    await store.mint('alice')
    const { status, stderr } = store.run(['rotate-user', ...args])
    expect(status).toBe(2)
    expect(stderr).toContain(said)
    expect(await store.rows()).toHaveLength(1)
  })

  it('rewrap takes previous keys from files beside those of the environment', async () => {
    await store.mint('alice')
    const previous = { API_KEY_MASTER_KEY_PREVIOUS: readFileSync(join(store.folder, 'keys/a.key'), 'utf8') }
    const other = ['--master-key-file', 'keys/b.key']
    expect(store.run(['rewrap', ...other, '--dry-run'], { env: previous }).status).toBe(0)
    expect(store.run(['rewrap', ...other, '--previous-key-file', 'keys/a.key', '--dry-run']).status).toBe(0)
    const names = store.json(['doctor', ...other, '--previous-key-file', 'keys/a.key'], { env: previous })
    expect(names.report.masterKeys).toHaveLength(2)
  })

  it('rewrap exits with 1 and says what to do about rows that stay as they are', async () => {
    await store.mint('alice')
    await store.use(async (keys) => {
      const first = store.keys('a').local[0]
      if (first !== undefined) await keys.insertIfAbsent([v2Row(first, { userId: 'dave' })])
    })
    const unknown = store.run(['rewrap', '--master-key-file', 'keys/b.key'])
    expect(unknown.status).toBe(1)
    expect(unknown.stdout).toContain('--previous-key-file')
    expect(unknown.stdout).toMatch(/│ not given +│ 1 +│ yes: a row is under it +│/)

    const v2 = store.run(['rewrap', ...BOTH_KEYS])
    expect(v2.status).toBe(1)
    expect(v2.stdout).toContain('--accept-v2')
    expect(v2.stdout).toContain('"dave", version 1')
    expect(store.json(['rewrap', ...BOTH_KEYS, '--accept-v2'])).toMatchObject({
      status: 0,
      report: { changed: 1, failedCount: 0 },
    })
  })

  it('rewrap takes a batch size from 1 to 5,000', async () => {
    await store.mint('alice', 'bob')
    for (const size of ['0', 'many'])
      expect(store.run(['rewrap', ...BOTH_KEYS, '--batch-size', size]).status).toBe(2)
    expect(store.run(['rewrap', ...BOTH_KEYS, '--batch-size', '1']).status).toBe(0)
  })

  it('takes an id that looks like an option behind two dashes', async () => {
    await store.mint('--json')
    expect(store.run(['rotate-user', '--', '--json']).stdout).toContain('version 2 of the key of "--json"')
    expect(store.run(['prune', '--before-version', '2', '--tokens-reencrypted', '--', '--json']).status).toBe(
      0,
    )
    expect(store.run(['shred-user', '--yes', '--', '--json']).status).toBe(0)
    expect((await store.rows()).every(({ shreddedAt }) => shreddedAt !== null)).toBe(true)
  })

  it('rotate-user makes no key for a user who has none', async () => {
    await store.mint('alice')
    for (const more of [[], ['--dry-run']]) {
      const { status, stderr } = store.run(['rotate-user', 'nobody', ...more])
      expect(status).toBe(1)
      expect(stderr).toContain('[ERR_KEY_NOT_FOUND]')
    }
    expect(await store.rows()).toHaveLength(1)
  })
})
