/** The command line as a user runs it: compiled, in a fresh folder, on both dialects. */
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { EXAMPLE_SECRETS } from '../../src/cli/example-secrets.js'
import { type CommandOptions, cleanEnvironment, runKeystore } from '../support/command.js'
import { dialects, type FreshDatabase, freshDatabase, temporaryFolder } from '../support/databases.js'

const VECTORS = resolve('test/vectors')

const COMMANDS = [
  ...['init', 'quickstart', 'migrate', 'encrypt', 'decrypt', 'status', 'doctor', 'new-master-key', 'rewrap'],
  ...['reencrypt', 'rotate-user', 'prune', 'shred-user', 'copy', 'backup', 'restore'],
]

/** A command to type that a shell finds only after a global installation. */
const BARE_COMMAND = new RegExp(`(?<!npx )\\bkeystore (COMMAND|${COMMANDS.join('|')})\\b`)

let folder: ReturnType<typeof temporaryFolder>
beforeEach(() => {
  folder = temporaryFolder()
})
afterEach(() => folder.remove())

const keystore = (args: string[], options: CommandOptions = {}) => runKeystore(folder.path, args, options)

const modeOf = (path: string) => statSync(join(folder.path, path)).mode & 0o777
const read = (path: string) => readFileSync(join(folder.path, path), 'utf8')

/** What a command loads: drivers, parts of Drizzle for them, and the library's own files. */
function loadedBy(args: string[], env: NodeJS.ProcessEnv = {}): Set<string> {
  const LOADS = join(folder.path, 'loads.txt')
  const hook = pathToFileURL(resolve('test/children/record-loads.mjs'))
  keystore(args, { env: { ...env, LOADS, NODE_OPTIONS: `--import=${hook}` } })
  const found = read('loads.txt').matchAll(
    /\/node_modules\/(drizzle-orm\/[\w-]+|pg|better-sqlite3)\/|\/(dist\/.+)$/gm,
  )
  return new Set(Array.from(found, ([, part, own = '']) => part ?? own))
}

describe('quickstart', () => {
  it('encrypts the example into tokens, reads them back and says ok for each', () => {
    const { status, stdout } = keystore(['quickstart'])
    expect(status).toBe(0)
    expect(stdout).toContain('made data/master.key (mode 0600)')
    expect(stdout.match(/│ ok │/g)).toHaveLength(21)
    expect(stdout).toContain(
      '20 secrets of 8 users encrypted into data/sealed.jsonl, read back, decrypted, compared: all ok.',
    )
    expect([modeOf('data'), modeOf('data/master.key'), modeOf('data/keystore.db')]).toEqual([
      0o700, 0o600, 0o600,
    ])
    for (const { secret } of EXAMPLE_SECRETS) {
      expect(stdout).not.toContain(secret)
      expect(read('data/sealed.jsonl')).not.toContain(secret)
    }
  })

  it('reuses master key and keystore when it is run again', () => {
    keystore(['quickstart'])
    const [key, sealed] = [read('data/master.key'), read('data/sealed.jsonl')]
    const { status, stdout } = keystore(['quickstart'])
    expect(status).toBe(0)
    expect(stdout).toContain('data/master.key (reused)')
    expect(read('data/master.key')).toBe(key)
    expect(JSON.parse(keystore(['status', '--json']).stdout)).toMatchObject([
      { version: 1, shredded: false, count: 8 },
    ])
    const { user, name, token } = JSON.parse(sealed.split('\n')[0] ?? '')
    expect(
      keystore(['decrypt', '--user', user, '--context', `name=${name}`], { input: token }).stdout,
    ).toMatch(/^sk-proj-/)
  })

  it('ends with commands that work as they stand, with the options that it was given', () => {
    const { stdout } = keystore([
      'quickstart',
      '--store',
      'sqlite:data/my store.db',
      '--out',
      'data/it is.jsonl',
    ])
    const commands = stdout.split('Go on in this folder:\n')[1]?.match(/^ {2}.+$/gm) ?? []
    const outputs = commands.map((command) =>
      execFileSync('sh', ['-c', command], { cwd: folder.path, env: cleanEnvironment(), encoding: 'utf8' }),
    )
    expect(outputs).toEqual(['', 'my secret', expect.stringMatching(/│ live +│ 8 +│/)])
    expect(read('data/token.txt')).toMatch(/^v3:/)
    expect(readdirSync(join(folder.path, 'data')).filter((name) => name.endsWith('.db'))).toEqual([
      'my store.db',
    ])
    const [, readme = '', guide = ''] = stdout.match(/Read on: (\S+) .*, (\S+) .*\.\n$/) ?? []
    expect([readme, guide].map((path) => existsSync(resolve(folder.path, path)))).toEqual([true, true])
  })

  it('repeats no password of a store, and names no user whom a terminal could not print', async () => {
    const database = await freshDatabase('postgres')
    writeFileSync(
      join(folder.path, 'mine.jsonl'),
      `${JSON.stringify({ user: '\u001b[31mme', name: 'n', secret: 's' })}\n`,
    )
    try {
      const { stdout } = keystore(['quickstart', 'mine.jsonl', '--store', database.url])
      expect(stdout).toContain('encrypt --user alice --context name=mine --store ')
      expect(stdout).not.toContain(`:${new URL(database.url).password}@`)
      expect(stdout).not.toContain('\u001b')
    } finally {
      await database.remove()
    }
  })

  it('takes another file, and names a bad line without showing it', () => {
    writeFileSync(join(folder.path, 'mine.jsonl'), '{"user":"me","name":"n","secret":"s3cr3t-value"}\n')
    expect(keystore(['quickstart', 'mine.jsonl'])).toMatchObject({ status: 0 })
    writeFileSync(
      join(folder.path, 'bad.jsonl'),
      '{"user":"me","name":"n","secret":"fine"}\n{"user":"me","secret":"hush-hush"\n',
    )
    const bad = keystore(['quickstart', 'bad.jsonl'])
    expect(bad.status).toBe(1)
    expect(bad.stderr).toContain('bad.jsonl, line 2')
    expect(bad.stdout + bad.stderr).not.toContain('hush')
    expect(keystore(['quickstart', 'none.jsonl']).stderr).toContain('There is no file none.jsonl')
  })

  it('takes the master key of the environment, and then makes no key file', () => {
    const env = { API_KEY_MASTER_KEY: '21M0bHIfWrmohSwq52Xu-oeAchiU30LXRcYdry7_Lik=' }
    expect(keystore(['quickstart'], { env }).stdout).toContain('Master key: from the environment')
    expect(() => statSync(join(folder.path, 'data/master.key'))).toThrow('ENOENT')
  })
})

describe.each(dialects)('on %s', (dialect) => {
  let database: FreshDatabase
  beforeEach(async () => {
    database = await freshDatabase(dialect)
  })
  afterEach(() => database.remove())

  it('init, migrate, encrypt, decrypt and status do the whole round with exact bytes', () => {
    const env = { KEYSTORE_URL: database.url }
    expect(keystore(['migrate', '--check'], { env })).toMatchObject({ status: 1 })
    expect(keystore(['init'], { env }).stdout).toContain('applied 0000_reference')
    expect(keystore(['migrate'], { env }).stdout).toBe('up to date\n')
    expect(keystore(['status'], { env }).stdout).toContain('no keys yet')

    const secret = Buffer.from([0, 0xff, 0xfe, 10, 65, 10])
    const token = keystore(['encrypt', '--user', 'alice', '--context', 'a=b=c'], { env, input: secret })
    expect(token.stdout).toMatch(/^v3:\S+\n$/)
    const back = keystore(['decrypt', '--user', 'alice', '--context', 'a=b=c'], {
      env,
      input: `  ${token.stdout}\n`,
    })
    expect(back.bytes).toEqual(secret)
    expect(keystore(['status', '--store', database.url]).stdout).toMatch(/local:\S+ +│ 1 +│ live +│ 1/)

    const stranger = keystore(['decrypt', '--user', 'bob'], { env, input: token.stdout })
    expect(stranger).toMatchObject({ status: 1, stdout: '' })
    expect(stranger.stderr).toContain('[ERR_KEY_NOT_FOUND]')
  })

  it('loads the driver of the store and no other, and the file of one command only', () => {
    // pg-core is not in the list: Drizzle's relations.js loads it on SQLite too.
    const drivers = {
      sqlite: ['better-sqlite3', 'drizzle-orm/sqlite-proxy', 'drizzle-orm/sqlite-core'],
      postgres: ['pg', 'drizzle-orm/pg-proxy'],
    }
    const unused = ['drizzle-orm/better-sqlite3', 'drizzle-orm/node-postgres', '@libsql/client']
    keystore(['init'], { env: { KEYSTORE_URL: database.url } })
    const loaded = [...loadedBy(['migrate'], { KEYSTORE_URL: database.url })]
    expect(loaded).toEqual(expect.arrayContaining(['dist/cli/migrate.js', ...drivers[dialect]]))
    const others = drivers[dialect === 'sqlite' ? 'postgres' : 'sqlite']
    expect(loaded.filter((part) => [...others, ...unused].includes(part))).toEqual([])
    expect(loaded).not.toContain('dist/cli/rewrap.js')
    expect(loaded).not.toContain('dist/chunks/envelope.js')
  })
})

describe('usage', () => {
  it('loads no driver and no Drizzle for help', () => {
    for (const args of [['--help'], ['rewrap', '--help']]) {
      const loaded = [...loadedBy(args)]
      // The overview needs no command's code.
      expect(loaded.includes('dist/cli/rewrap.js')).toBe(args[0] === 'rewrap')
      expect(loaded.filter((part) => !part.startsWith('dist/'))).toEqual([])
    }
  })

  it('explains every command, with exit code 0', () => {
    const all = keystore(['--help']).stdout
    for (const command of COMMANDS) {
      const { status, stdout } = keystore([command, '--help'])
      expect(status).toBe(0)
      expect(stdout).toContain(`Usage: npx keystore ${command}`)
      expect(stdout).not.toMatch(BARE_COMMAND)
      expect(all).toContain(`  ${command} `)
    }
  })

  it.each([
    [['no-such-command']],
    [['encrypt']],
    [['decrypt', '--user', 'a', '--context', 'no-pair']],
    [['migrate', '--no-such-option']],
    [['migrate', '--store', 'mysql://u:p4ssw0rd@host/db']],
    [[]],
  ])('exits with 2 for %j', (args) => {
    const { status, stderr } = keystore(args)
    expect(status).toBe(2)
    expect(stderr).not.toBe('')
    expect(stderr).not.toContain('p4ssw0rd')
  })

  it('exits with 1 and says how to make a master key when there is none', () => {
    const { status, stderr } = keystore(['encrypt', '--user', 'alice'], { input: 'hush-hush' })
    expect(status).toBe(1)
    expect(stderr).toContain('keystore init')
    expect(stderr).not.toContain('hush')
  })

  it('no message of the library or of a command tells to type a command that is not on the path', () => {
    const sources = readdirSync('src', { recursive: true, encoding: 'utf8' }).filter((name) =>
      name.endsWith('.ts'),
    )
    expect(sources.length).toBeGreaterThan(100)
    for (const name of sources) {
      const code = readFileSync(join('src', name), 'utf8').replaceAll(/^ *(\/?\*|\/\/).*$/gm, '')
      expect([name, BARE_COMMAND.exec(code)?.[0]]).toEqual([name, undefined])
    }
    expect(BARE_COMMAND.exec('run `keystore rewrap`')?.[1]).toBe('rewrap')
  })

  it('adopts a file of the reference only when asked to', () => {
    writeFileSync(join(folder.path, 'keys.sqlite'), readFileSync(join(VECTORS, 'python-keys.sqlite')))
    const refused = keystore(['migrate', '--store', 'keys.sqlite'])
    expect(refused.status).toBe(1)
    expect(refused.stderr).toContain('--adopt')
    expect(keystore(['migrate', '--store', 'keys.sqlite', '--adopt']).stdout).toContain('adopted 30 keys')
  })
})
