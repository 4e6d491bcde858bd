/** What a newcomer does wrong: the wrong master key, a mistyped store, a secret that is none. Nothing is written, and the message says what to do. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { generateMasterKey } from '../../src/index.js'
import { type CommandOptions, cleanEnvironment, runKeystore } from '../support/command.js'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { itIf } from '../support/conditional.js'
import { dialects, temporaryFolder } from '../support/databases.js'
import { linkPackages } from '../support/host-project.js'
import { freePort } from '../support/postgres-server.js'
import { runSql } from '../support/raw-database.js'

/** An environment that names no master key: commands look into data/master.key. */
const NO_KEY = { API_KEY_MASTER_KEY_FILE: '' }
const isRoot = process.getuid?.() === 0

const OTHER_KEY = { API_KEY_MASTER_KEY_FILE: 'keys/b.key' }

describe.each(dialects)('on %s', (dialect) => {
  let store: CommandStore
  beforeEach(async () => {
    store = await commandStore(dialect)
  })
  afterEach(() => store.remove())

  const exists = (path: string) => existsSync(join(store.folder, path))

  it.each(['init', 'quickstart'])('%s makes no new master key for a store that has keys', async (command) => {
    await store.mint('alice')
    const before = await store.rows()
    const { id } = store.keys('a').primary
    for (const args of [[command], [command, '--master-key-file', 'data/another.key']]) {
      const { status, stdout, stderr } = store.run(args, { env: NO_KEY })
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' })
      expect(stderr).toContain(`has keys already under ${id}`)
      expect(stderr).toContain('[ERR_UNKNOWN_MASTER_KEY]')
      expect(stderr).toContain('--master-key-file FILE')
    }
    const option = store.run([command, '--master-key-file', 'data/another.key'], { env: NO_KEY })
    const variable = store.run([command], { env: { API_KEY_MASTER_KEY_FILE: 'data/gone.key' } })
    expect(option.stderr).toContain('data/another.key, which --master-key-file names, is not there')
    expect(variable.stderr).toContain('data/gone.key, which API_KEY_MASTER_KEY_FILE names, is not there')
    expect(variable.stderr).toMatch(/\[ERR_UNKNOWN_MASTER_KEY\]\nIs the path right\?/)
    expect([exists('data'), exists('keys/.gitignore')]).toEqual([false, false])
    expect(await store.rows()).toEqual(before)
  })

  it.each(['init', 'quickstart'])('%s refuses a master key that does not open the store', async (command) => {
    await store.mint('alice')
    const wrong = { ...NO_KEY, API_KEY_MASTER_KEY: generateMasterKey() }
    for (const env of [OTHER_KEY, wrong]) {
      const { status, stdout, stderr } = store.run([command], { env })
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' })
      expect(stderr).toContain('[ERR_UNKNOWN_MASTER_KEY]')
      expect(stderr).toContain('under another master key than the one given')
      expect(stderr).toContain('--previous-key-file FILE')
    }
    expect(exists('data')).toBe(false)
    expect(store.run([command], { env: OTHER_KEY }).status).toBe(1)
    const both = ['--previous-key-file', 'keys/a.key']
    expect(store.run([command, ...both], { env: OTHER_KEY }).status).toBe(0)
  })

  it('init makes the file that API_KEY_MASTER_KEY_FILE names, if there is none', async () => {
    const env = { API_KEY_MASTER_KEY_FILE: 'secret/it.key' }
    expect(store.run(['init'], { env }).stdout).toContain('made secret/it.key')
    expect(store.run(['encrypt', '--user', 'alice'], { env, input: 'x' }).status).toBe(0)
    const again = store.run(['init'], { env })
    expect(again.stdout).toContain('up to date')
  })

  it('decrypt says that user and context must be those of the encryption', async () => {
    await store.mint('alice')
    const { stdout } = store.run(['encrypt', '--user', 'alice', '--context', 'a=b'], { input: 'x' })
    const { status, stderr } = store.run(['decrypt', '--user', 'alice'], { input: stdout })
    expect(status).toBe(1)
    expect(stderr).toMatch(/\[ERR_DECRYPTION_FAILED\]\n.*--user and every --context/)
  })

  it('init, status and doctor name the store that they look at, without a password', async () => {
    const name = dialect === 'sqlite' ? store.url : new URL(store.url).host + new URL(store.url).pathname
    const init = store.run(['init']).stdout
    expect(init).toContain(`Key store:  ${name}: applied 0000`)
    expect(init).toContain("await openKeyStore(process.env.KEYSTORE_URL ?? ''")
    expect(init).toMatch(/its own drizzle db, that may be given instead/)
    expect(store.run(['status']).stdout).toBe(
      `${name} has no keys yet. --store or KEYSTORE_URL names another store.\n`,
    )
    await store.mint('alice')
    expect(store.run(['status']).stdout).toContain(`1 live key, 0 shredded, in ${name}\n`)
    expect(store.run(['doctor']).stdout).toContain(`${name}: 1 row looked at: `)
  })

  it('names the master key options where the keys are under another key', async () => {
    const { alice = '' } = await store.mint('alice')
    const { status, stderr } = store.run(['decrypt', '--user', 'alice'], { env: OTHER_KEY, input: alice })
    expect(status).toBe(1)
    expect(stderr).toMatch(/under another master key than the one given.*--previous-key-file FILE/)
    const given = ['--master-key-file', 'keys/b.key', '--previous-key-file', 'keys/a.key']
    expect(store.run(['decrypt', '--user', 'alice', ...given], { input: alice }).stdout).toBe(
      'secret of alice',
    )
  })

  it('no command but init, quickstart, restore and copy makes a table, and none advises an option of the library', async () => {
    for (const args of COMMANDS_ON_A_STORE) {
      const { status, stderr } = store.run(args, { input: 'x' })
      expect([args[0], status]).toEqual([args[0], 1])
      expect(stderr).toMatch(/There is no store at \S+: `npx keystore init.*` makes one \[ERR_SCHEMA\]/)
    }
    const checked = store.run(['migrate', '--check'])
    expect(checked.stderr).toContain(dialect === 'sqlite' ? 'npx keystore init' : 'npx keystore migrate')
    const doctor = store.run(['doctor'])
    expect(doctor.status).toBe(1)
    for (const { stdout, stderr } of [checked, doctor])
      expect(stdout + stderr).not.toContain("migrate: 'auto'")
    if (dialect === 'sqlite') expect(existsSync(store.url)).toBe(false)
  })

  it('says what a missing table means if the store had keys', async () => {
    await store.mint('alice')
    await runSql(dialect, store.url, 'drop table encryption_keys; drop table __drizzle_keystore_migrations')
    for (const args of [['status'], ['decrypt', '--user', 'alice']]) {
      const { status, stderr } = store.run(args, { input: 'x' })
      expect(status).toBe(1)
      expect(stderr).toMatch(
        /There is no store at .*\n.*its tables were dropped.*tablesFilter.*restore a backup/,
      )
    }
    expect(store.run(['doctor']).stdout).toContain('restore a backup')
  })

  it('says which migrations an old store lacks, and the command that applies them', async () => {
    await store.mint('alice')
    await runSql(dialect, store.url, "delete from __drizzle_keystore_migrations where tag like '0004%'")
    const { status, stderr } = store.run(['status'])
    expect(status).toBe(1)
    expect(stderr).toMatch(
      / lacks migrations \(0004_\w+\): `npx keystore migrate.*` applies them \[ERR_SCHEMA\]/,
    )
    expect(stderr).not.toContain("'auto'")
  })

  it("commands work on a table that the application's own migrations made", async () => {
    const { alice = '' } = await store.mint('alice')
    await runSql(dialect, store.url, 'drop table __drizzle_keystore_migrations')
    expect(store.run(['status'])).toMatchObject({ status: 0, stdout: expect.stringContaining('1 live key') })
    expect(store.run(['decrypt', '--user', 'alice'], { input: alice }).stdout).toBe('secret of alice')
  })
})

/** Commands that need a store, each with what it needs besides. */
const COMMANDS_ON_A_STORE = [
  ['encrypt', '--user', 'alice'],
  ['decrypt', '--user', 'alice'],
  ['status'],
  ['rewrap'],
  ['rotate-user', 'alice'],
  ['rotate-user', '--older-than', '0'],
  ['prune', 'alice', '--before-version', '2', '--tokens-reencrypted'],
  ['shred-user', 'alice', '--yes'],
  ['backup', 'b.db'],
  [
    'reencrypt',
    '--db',
    'app.db',
    '--table',
    't',
    '--key',
    'id',
    '--owner',
    'o',
    '--column',
    'c',
    '--context',
    '',
  ],
]

describe('in a fresh folder', () => {
  let folder: ReturnType<typeof temporaryFolder>
  beforeEach(() => {
    folder = temporaryFolder()
  })
  afterEach(() => folder.remove())

  const keystore = (args: string[], options: CommandOptions = {}) => runKeystore(folder.path, args, options)
  const write = (name: string, text: string) => writeFileSync(join(folder.path, name), text)
  const names = (path = '.') => readdirSync(join(folder.path, path)).sort()

  it('a mistyped --store makes no file, and the message names the command that makes one', () => {
    keystore(['init'])
    for (const args of [...COMMANDS_ON_A_STORE, ['migrate'], ['migrate', '--check'], ['doctor']]) {
      const { status, stderr } = keystore([...args, '--store', 'sqlite:typo/my store.db'], { input: 'x' })
      expect([args[0], status]).toEqual([args[0], 1])
      expect(stderr).toContain(
        "There is no store at typo/my store.db: `npx keystore init --store 'typo/my store.db'` makes one",
      )
    }
    expect(keystore(['copy', '--from', 'typo.db', '--to', 'to.db']).stderr).toContain('no store at typo.db')
    expect(keystore(['copy', '--to', 'to.db', '--dry-run']).stderr).toContain('no store at to.db')
    expect(names()).toEqual(['data'])
  })

  it('a --store that is a folder is named as one', () => {
    mkdirSync(join(folder.path, 'data'))
    for (const args of [['init'], ['quickstart'], ['status'], ['doctor'], ['migrate']]) {
      const { status, stderr } = keystore([...args, '--store', 'data'])
      expect([args[0], status]).toEqual([args[0], 2])
      expect(stderr).toContain('data is a folder: name the file of the store, such as data/keystore.db')
    }
    expect(names('data')).toEqual([])
  })

  it('init prints the line that the application needs, and it works as it stands', () => {
    expect(keystore(['init']).stdout).toMatch(
      /its own drizzle db .*the keys are in that database.*\n.*--store app\.db/,
    )
    // A variable that may have been set for this command alone.
    expect(keystore(['init'], { env: { KEYSTORE_URL: 'once.db' } }).stdout).toContain(
      '\n  export KEYSTORE_URL=once.db\n',
    )
    const { stdout } = keystore(['init', '--store', 'data/my store.db', '--master-key-file', 'my keys/m.key'])
    expect(stdout).toContain(
      "\n  export API_KEY_MASTER_KEY_FILE='my keys/m.key'\n  export KEYSTORE_URL='data/my store.db'\n",
    )
    const env = { API_KEY_MASTER_KEY_FILE: 'my keys/m.key', KEYSTORE_URL: 'data/my store.db' }
    expect(keystore(['encrypt', '--user', 'alice'], { env, input: 'x' }).status).toBe(0)
    expect(keystore(['init'], { env }).stdout).not.toContain('export')
    expect(keystore(['init'], { env: { API_KEY_MASTER_KEY: generateMasterKey() } }).stdout).not.toContain(
      'export',
    )
    expect(keystore(['init', '--store', 'postgres://u:hidden@127.0.0.1:1/x']).stdout).not.toContain('hidden')
  })

  it.each([['init'], ['init', '--store', 'app.db']])(
    '%s prints lines of code that work as pasted, after its exports',
    (...args: string[]) => {
      linkPackages(folder.path, 'better-sqlite3', 'drizzle-orm')
      const { stdout } = keystore(args)
      const code =
        stdout.slice(stdout.indexOf('In the application:\n')).match(/^ {2}(import|const) .*$/gm) ?? []
      write(
        'app.mjs',
        [...code, "console.log(await envelope.encrypt('alice', 'x'))", 'await envelope.close()'].join('\n'),
      )
      const exported = [...stdout.matchAll(/^ {2}export (\w+)=(\S+)$/gm)].map(([, name, value]) => [
        name,
        value,
      ])
      const run = spawnSync(process.execPath, ['app.mjs'], {
        cwd: folder.path,
        env: cleanEnvironment(Object.fromEntries(exported)),
        encoding: 'utf8',
      })
      expect(run.stderr).toBe('')
      expect(run.stdout).toMatch(/^v3:/)
      expect(keystore(['status', ...args.slice(1), '--master-key-file', 'data/master.key']).stdout).toContain(
        '1 live key',
      )
    },
  )

  const hasSetpriv = spawnSync('setpriv', ['--version']).status === 0
  itIf(!isRoot || hasSetpriv, 'root may write anywhere, and setpriv is not installed')(
    'init names the folder that is not writable, and makes nothing',
    () => {
      mkdirSync(join(folder.path, 'closed'), { mode: 0o555 })
      mkdirSync(join(folder.path, 'open'))
      // Root without the right to write anywhere.
      const asOthers = isRoot ? ['setpriv', '--bounding-set=-dac_override,-dac_read_search'] : []
      const init = (...args: string[]) => {
        const [program = '', ...words] = [
          ...asOthers,
          process.execPath,
          resolve('dist/cli/main.js'),
          'init',
          ...args,
        ]
        return spawnSync(program, words, { cwd: folder.path, env: cleanEnvironment(), encoding: 'utf8' })
      }
      const store = init('--store', 'closed/data/app.db', '--master-key-file', 'open/m.key')
      expect(store).toMatchObject({ status: 1, stdout: '' })
      expect(store.stderr).toMatch(
        /The folder \S+closed is not writable, so that closed\/data\/app\.db .*--store or KEYSTORE_URL/,
      )
      const key = init('--store', 'open/app.db', '--master-key-file', 'closed/m.key')
      expect(key).toMatchObject({ status: 1, stdout: '' })
      expect(key.stderr).toMatch(
        /closed is not writable, so that closed\/m\.key .*--master-key-file or API_KEY_MASTER_KEY_FILE/,
      )
      expect(names('open')).toEqual([])
      expect(init('--store', 'open/app.db', '--master-key-file', 'open/m.key').status).toBe(0)
    },
  )

  it('says which server could not be reached, and not that it could not migrate', async () => {
    const port = await freePort()
    for (const host of ['127.0.0.1', 'localhost']) {
      const { status, stderr } = keystore(['status', '--store', `postgres://u:hidden@${host}:${port}/app`])
      expect(status).toBe(1)
      expect(stderr).toContain(`could not connect to ${host}:${port}/app (`)
      expect(stderr).not.toMatch(/migrate|hidden/)
    }
  })

  it('status takes the options of master keys, and needs none of them', () => {
    keystore(['init'])
    const { status, stdout } = keystore([
      'status',
      '--master-key-file',
      'a.key',
      '--previous-key-file',
      'b.key',
    ])
    expect([status, stdout]).toEqual([0, expect.stringContaining('has no keys yet')])
  })

  it('without a master key a command names its option and the default file', () => {
    keystore(['init'])
    renameSync(join(folder.path, 'data/master.key'), join(folder.path, 'mine.key'))
    const { status, stderr } = keystore(['encrypt', '--user', 'alice'], { input: 'x' })
    expect(status).toBe(1)
    expect(stderr).toMatch(/\[ERR_MASTER_KEY\]\n.*--master-key-file FILE.*data\/master\.key/)
    expect(stderr).toContain('`export API_KEY_MASTER_KEY_FILE=data/master.key`')
  })

  it('refuses a context that gives one name two values', () => {
    keystore(['init'])
    const twice = ['--context', 'name=x', '--context', 'name=y']
    for (const command of ['encrypt', 'decrypt']) {
      const { status, stdout, stderr } = keystore([command, '--user', 'alice', ...twice], { input: 'x' })
      expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
      expect(stderr).toContain('given twice')
    }
    const two = ['--context', '__proto__=x', '--context', 'name=y']
    expect(keystore(['encrypt', '--user', 'alice', ...two], { input: 'x' }).status).toBe(0)
  })

  it('encrypts a token once more only when asked to', () => {
    keystore(['init'])
    const { stdout: token } = keystore(['encrypt', '--user', 'alice'], { input: 'x' })
    for (const input of [token, token.trim(), `  ${token}`]) {
      const { status, stdout, stderr } = keystore(['encrypt', '--user', 'bob'], { input })
      expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
      expect(stderr).toContain('is a token already: --allow-token encrypts it once more')
    }
    expect(keystore(['status']).stdout).toContain('1 live key,')
    const twice = keystore(['encrypt', '--user', 'bob', '--allow-token'], { input: token })
    expect(keystore(['decrypt', '--user', 'bob'], { input: twice.stdout }).stdout).toBe(token)
    expect(keystore(['encrypt', '--user', 'bob'], { input: `v3: ${token}` }).status).toBe(0)
  })

  it('encrypts several tokens, whole or cut, only when asked to, and decrypts one at a time', () => {
    keystore(['init'])
    const token = keystore(['encrypt', '--user', 'alice'], { input: 'x' }).stdout.trim()
    for (const input of [
      `${token}\n${token}`,
      `${token}\r\n\r\n${token}\n`,
      `${token} v2:abc`,
      `v3:ab\n${token}`,
    ]) {
      const { status, stdout, stderr } = keystore(['encrypt', '--user', 'bob'], { input })
      expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
      expect(stderr).toContain('Standard input is 2 tokens')
      const decrypted = keystore(['decrypt', '--user', 'alice'], { input })
      expect(decrypted).toMatchObject({ status: 2, stdout: '' })
      expect(decrypted.stderr).toContain('takes one at a time')
    }
    expect(keystore(['status']).stdout).toContain('1 live key,')
    const both = `${token}\n${token}`
    const twice = keystore(['encrypt', '--user', 'bob', '--allow-token'], { input: both }).stdout
    expect(keystore(['decrypt', '--user', 'bob'], { input: twice }).stdout).toBe(both)
    for (const input of [`${token}\nmy notes`, 'v2: a\nv3: b'])
      expect(keystore(['encrypt', '--user', 'bob'], { input }).status).toBe(0)
  })

  it('decrypt says that nothing came on standard input', () => {
    keystore(['init'])
    for (const input of ['', ' \n']) {
      const { status, stdout, stderr } = keystore(['decrypt', '--user', 'alice'], { input })
      expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
      expect(stderr).toContain('Standard input was empty: `decrypt` reads a token from it')
    }
  })

  it('encrypts nothing at all only when asked to', () => {
    keystore(['init'])
    const { status, stdout, stderr } = keystore(['encrypt', '--user', 'alice'])
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
    expect(stderr).toContain('Standard input was empty, so nothing was encrypted')
    const { stdout: token } = keystore(['encrypt', '--user', 'alice', '--allow-empty'])
    expect(keystore(['decrypt', '--user', 'alice'], { input: token })).toMatchObject({
      status: 0,
      stdout: '',
    })
  })

  it('quickstart replaces no tokens but those of its own examples, unless it is told to', () => {
    write('mine.jsonl', '{"user":"me","name":"n","secret":"s3cr3t"}\n')
    const sealed = () => readFileSync(join(folder.path, 'data/sealed.jsonl'), 'utf8')
    for (const args of [[], [], ['mine.jsonl']]) expect(keystore(['quickstart', ...args]).status).toBe(0)
    const mine = sealed()
    for (const args of [[], ['mine.jsonl']]) {
      const { status, stdout, stderr } = keystore(['quickstart', ...args])
      expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
      expect(stderr).toContain('data/sealed.jsonl is there already')
      expect(stderr).toContain('--force replaces it')
    }
    expect(sealed()).toBe(mine)
    expect(keystore(['quickstart', 'mine.jsonl', '--force']).status).toBe(0)
    expect(sealed()).not.toBe(mine)
    const beside = keystore(['quickstart', '--out', 'data/beside.jsonl'])
    expect(beside.status).toBe(0)
    expect(beside.stdout).toContain('Key store:  data/keystore.db: up to date')
    expect(sealed()).toMatch(/^\{"user":"me"/)
  })

  it.each([
    ['{"user":"me","name":"n","secret":"hush"', 'it is not valid JSON'],
    ['["me","n","hush"]', 'it is not a JSON object'],
    ['{"user":"me","secret":"hush"}', 'it has no "name"'],
    ['{"user":"me","name":"n","secret":["hush"]}', '"secret" is not a string'],
    ['{"user":"","name":"n","secret":"hush"}', 'userId '],
  ])('quickstart names the line of %s and what is wrong with it', (line, problem) => {
    write('bad.jsonl', `{"user":"me","name":"n","secret":"fine"}\n\n${line}\n`)
    const { status, stdout, stderr } = keystore(['quickstart', 'bad.jsonl'])
    expect(status).not.toBe(0)
    expect(stderr).toContain(`bad.jsonl, line 3: ${problem}`)
    expect(stdout + stderr).not.toContain('hush')
    expect(existsSync(join(folder.path, 'data/sealed.jsonl'))).toBe(false)
  })

  it('quickstart does not call a file without lines a success', () => {
    write('none.jsonl', '\n')
    const { status, stderr } = keystore(['quickstart', 'none.jsonl'])
    expect(status).toBe(1)
    expect(stderr).toContain('none.jsonl has no lines')
  })
})
