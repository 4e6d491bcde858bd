/** The files that commands make: the master key, the backup in progress, and what git must not take. */
import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { assertSameFile, claimFile } from '../../src/cli/own-file.js'
import type { VerifyReport } from '../../src/index.js'
import { generateMasterKey, masterKeysFromFile } from '../../src/index.js'
import { runKeystore, startKeystore } from '../support/command.js'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { itIf } from '../support/conditional.js'
import { temporaryFolder } from '../support/databases.js'
import { warningsOf } from '../support/warnings.js'

const isRoot = process.getuid?.() === 0

describe('init', () => {
  let folder: ReturnType<typeof temporaryFolder>
  beforeEach(() => {
    folder = temporaryFolder()
  })
  afterEach(() => folder.remove())
  const at = (name: string) => join(folder.path, name)
  const ignored = (name: string) => readFileSync(at(name), 'utf8').trim().split('\n')

  it('keeps key and database out of git, and out of one backup', () => {
    const { stdout } = runKeystore(folder.path, ['init'])
    expect(stdout).toContain('data/.gitignore keeps them out of git')
    expect(stdout).toMatch(/are in one folder, and do not belong in one backup/)
    expect(ignored('data/.gitignore')).toEqual(['/master.key*', '/keystore.db*'])
    expect(runKeystore(folder.path, ['init']).stdout).not.toContain('.gitignore')
    expect(ignored('data/.gitignore')).toEqual(['/master.key*', '/keystore.db*'])
    // Git agrees.
    spawnSync('git', ['init', '--quiet'], { cwd: folder.path })
    const { stdout: seen } = spawnSync('git', ['status', '--porcelain', '-uall'], {
      cwd: folder.path,
      encoding: 'utf8',
    })
    expect(seen).toBe('?? data/.gitignore\n')
  })

  it.each(['init', 'quickstart', 'new-master-key'])('%s makes no file whose name is a key', (command) => {
    const bytes = Buffer.from(generateMasterKey(), 'base64url')
    // One key of 64 begins with `-` in base64url, and is an option to the command line: the next test has those.
    bytes[0] = 0
    const key = bytes.toString('base64url')
    for (const text of [key, bytes.toString('base64'), bytes.toString('hex'), `"${key}"`, key.slice(0, 40)]) {
      const args = command === 'new-master-key' ? [command, text] : [command]
      const { status, stdout, stderr } = runKeystore(folder.path, args, {
        env: { API_KEY_MASTER_KEY_FILE: text, API_KEY_MASTER_KEY: '' },
      })
      expect({ status, stdout }).toEqual({ status: 1, stdout: '' })
      expect(stderr).toContain('is a master key itself')
      expect(stderr).not.toContain(text.slice(1, 20))
      expect(readdirSync(folder.path)).toEqual([])
    }
  })

  it('shows no key that the command line cannot use', () => {
    // Not `-V…` or `-h…`, which are options: these print the version, or the help, and nothing of what follows.
    const key = `-_${generateMasterKey().slice(2)}`
    const command = 'new-master-key'
    const lines = [
      [command, key],
      [command, `-${key}`],
      [command, `--file=${key}`],
      [command, '--pin=1234 5'],
      [command, "--pin=$'12\n1234'"],
      [command, `--key ${key}`],
      [command, `--key:${key}`],
      [command, `-\n${key}`],
      [command, `--a'=${key}`],
      [command, `--a'${key}'`],
      [command, '--', key],
      [key.slice(1)],
      [`a\n${key}`],
      [`a,${key}`],
    ]
    for (const value of [key, `${key}\n`, ` ${key} `]) lines.push(['rewrap', '--batch-size', value])
    for (const args of lines) {
      const { status, stdout, stderr } = runKeystore(folder.path, args)
      expect({ status: status === 0, stdout }).toEqual({ status: false, stdout: '' })
      expect(stderr).toMatch(/unknown (option|command)|is a master key itself|is invalid/)
      expect(stderr).not.toContain(key.slice(2, 20))
      expect(stderr).not.toContain('1234')
    }
    expect(readdirSync(folder.path)).toEqual([])
    expect(runKeystore(folder.path, [command, '--out']).stderr).toContain("unknown option '--out'")
  })

  it('says what drizzle-kit must leave alone, where there is one', () => {
    expect(runKeystore(folder.path, ['init']).stdout).not.toContain('drizzle-kit')
    writeFileSync(at('drizzle.config.ts'), '')
    const { stdout } = runKeystore(folder.path, ['init'])
    expect(stdout).toContain("tablesFilter: ['!encryption_keys', '!__drizzle_keystore_migrations']")
  })

  it('puts both into one folder, and doctor warns of it too, until the key is moved', () => {
    runKeystore(folder.path, ['init'])
    const doctor = (env: NodeJS.ProcessEnv = {}) => {
      const { status, stdout } = runKeystore(folder.path, ['doctor', '--json'], { env })
      const { findings, ok } = JSON.parse(stdout) as VerifyReport
      return { status, ok, found: findings.map(({ kind, severity, reason }) => [kind, severity, reason]) }
    }
    const reason = expect.stringMatching(
      /^The master key file data\/master\.key and the database data\/keystore\.db are in one folder/,
    )
    expect(doctor()).toEqual({ status: 0, ok: true, found: [['keyBesideStore', 'warning', reason]] })
    mkdirSync(at('keys'))
    renameSync(at('data/master.key'), at('keys/master.key'))
    expect(doctor({ API_KEY_MASTER_KEY_FILE: 'keys/master.key' })).toEqual({ status: 0, ok: true, found: [] })
  })

  it('adds to a .gitignore that is there, in each of two folders, and names files that git would read as patterns', () => {
    writeFileSync(at('.gitignore'), 'node_modules')
    const options = ['--store', 'my [new] store.db', '--master-key-file', 'keys/!a.key']
    const { stdout } = runKeystore(folder.path, ['init', ...options])
    expect(stdout).toContain('keys/.gitignore and .gitignore keep them out of git')
    expect(stdout).toContain('master key and database do not belong in one backup')
    expect(ignored('.gitignore')).toEqual(['node_modules', '/my\\ \\[new\\]\\ store.db*'])
    expect(ignored('keys/.gitignore')).toEqual(['/\\!a.key*'])
  })

  it('writes none for a key of the environment and a store that is in no file', () => {
    const env = { API_KEY_MASTER_KEY: generateMasterKey() }
    const { stdout } = runKeystore(folder.path, ['init', '--store', ':memory:'], { env })
    expect(stdout).not.toContain('Backups:')
    expect(readdirSync(folder.path)).toEqual([])
  })

  it.each([
    ['new-master-key', 'keys/b.key', '/b.key*'],
    ['backup', 'backups/monday.db', '/monday.db*'],
    ['copy', 'copies/other.db', '/other.db*'],
    ['restore', 'restored/other.db', '/other.db*'],
  ])('%s keeps the file that it makes out of git too: %s', (command, file, pattern) => {
    expect(runKeystore(folder.path, ['init', '--store', 's.db']).status).toBe(0)
    expect(runKeystore(folder.path, ['backup', 'b.db', '--store', 's.db']).status).toBe(0)
    const args =
      command === 'copy'
        ? ['copy', '--from', 's.db', '--to', file]
        : command === 'restore'
          ? ['restore', 'b.db', '--store', file]
          : [command, file]
    const { status, stderr } = runKeystore(folder.path, args, { env: { KEYSTORE_URL: 's.db' } })
    expect(status).toBe(0)
    const gitIgnore = join(dirname(file), '.gitignore')
    expect(stderr).toContain(`${gitIgnore} keeps ${file} out of git.`)
    expect(ignored(gitIgnore)).toEqual([pattern])
    expect(existsSync(at(file))).toBe(true)
  })

  it('goes on where .gitignore cannot be written, as new-master-key and backup do, and says so', () => {
    mkdirSync(at('.gitignore'))
    for (const args of [
      ['init', '--store', 's.db'],
      ['new-master-key', 'b.key'],
      ['backup', 'b.db', '--store', 's.db'],
    ]) {
      const { status, stderr } = runKeystore(folder.path, args)
      expect(stderr).toContain('.gitignore could not be written (EISDIR)')
      expect(status).toBe(0)
    }
  })

  it('run by many at once makes one key, and nobody reads half of it', async () => {
    for (let round = 0; round < 3; round++) {
      const keyFile = `keys/${round}.key`
      const runs = Array.from({ length: 6 }, (_, index) =>
        startKeystore(folder.path, ['init', '--store', `${round}-${index}.db`, '--master-key-file', keyFile]),
      )
      const ended = await Promise.all(runs.map(({ ended }) => ended))
      expect(ended.map(({ status, stderr }) => [status, stderr])).toEqual(Array(6).fill([0, '']))
      expect(ended.filter(({ stdout }) => stdout.includes(`made ${keyFile}`))).toHaveLength(1)
    }
    expect(readdirSync(at('keys')).filter((name) => !name.startsWith('.'))).toEqual([
      '0.key',
      '1.key',
      '2.key',
    ])
  })
})

it('a key file has its name only when it is complete', () => {
  const folder = temporaryFolder()
  try {
    mkdirSync(join(folder.path, 'keys'))
    // Says of each file that is opened for writing what name it has.
    const hook = join(folder.path, 'hook.mjs')
    writeFileSync(
      hook,
      `import fs from 'node:fs'
       import { syncBuiltinESMExports } from 'node:module'
       const { writeSync } = fs
       fs.writeSync = (file, ...rest) => {
         fs.appendFileSync('seen.txt', fs.existsSync('keys/a.key') ? 'named early\\n' : 'no name yet\\n')
         return writeSync(file, ...rest)
       }
       syncBuiltinESMExports()`,
    )
    const env = { NODE_OPTIONS: `--import=${hook}` }
    expect(runKeystore(folder.path, ['new-master-key', 'keys/a.key'], { env }).status).toBe(0)
    expect(readFileSync(join(folder.path, 'seen.txt'), 'utf8')).toMatch(/^no name yet\n/)
    expect(readdirSync(join(folder.path, 'keys')).sort()).toEqual(['.gitignore', 'a.key'])
    expect(statSync(join(folder.path, 'keys/a.key')).mode & 0o777).toBe(0o600)
    expect(runKeystore(folder.path, ['new-master-key', 'keys/a.key']).status).toBe(1)
  } finally {
    folder.remove()
  }
})

describe('the mode of a master key file', () => {
  let store: CommandStore
  beforeEach(async () => {
    store = await commandStore('sqlite')
    await store.mint('alice')
  })
  afterEach(() => store.remove())
  const keyFile = (name: string) => join(store.folder, 'keys', name)

  it.each([0o640, 0o604, 0o620, 0o666])('%o is warned of at start', async (mode) => {
    chmodSync(keyFile('a.key'), mode)
    const [warning] = await warningsOf(() => masterKeysFromFile(keyFile('a.key')))
    expect(warning).toMatchObject({ name: 'KeystoreWarning', code: 'KEYSTORE_MASTER_KEY' })
    expect(warning?.message).toContain(
      `has mode ${mode.toString(8)}, which is not for its owner alone: chmod 600`,
    )
  })

  it('600 and 400 are not', async () => {
    for (const mode of [0o600, 0o400]) {
      chmodSync(keyFile('a.key'), mode)
      expect(await warningsOf(() => masterKeysFromFile(keyFile('a.key')))).toEqual([])
    }
  })

  it('is a finding of doctor, for each file that it was given', () => {
    for (const name of ['a.key', 'b.key']) chmodSync(keyFile(name), 0o644)
    const { status, report } = store.json<VerifyReport>(['doctor', '--previous-key-file', 'keys/b.key'])
    expect(status).toBe(0)
    expect(report.findings).toMatchObject(
      ['a.key', 'b.key'].map((name) => ({
        severity: 'warning',
        kind: 'keyFileMode',
        reason: expect.stringContaining(`keys/${name} has mode 644`),
      })),
    )
    expect(store.run(['doctor']).stderr).toContain('has mode 644')
  })
})

describe('a backup in progress', () => {
  let store: CommandStore
  beforeEach(async () => {
    store = await commandStore('sqlite')
    await store.mint('alice', 'bob')
  })
  afterEach(() => store.remove())
  const at = (name: string) => join(store.folder, name)
  const partial = () => at('b.db.partial')
  const empty = async (path: string) => (await openKeyStore(path)).close()

  function expectRefused(file: string, reason: string): void {
    const { status, stderr } = store.run(['backup', 'b.db'])
    expect(stderr).toContain(`${file} is not used: ${reason}`)
    expect(status).toBe(1)
    expect(existsSync(at('b.db'))).toBe(false)
  }

  it('is not written into a file to which its name is linked', async () => {
    await empty(at('victim.db'))
    const before = readFileSync(at('victim.db'))
    symlinkSync('victim.db', partial())
    expectRefused('b.db.partial', 'it is a symbolic link')
    expect(readFileSync(at('victim.db'))).toEqual(before)
    expect(readdirSync(store.folder)).not.toContain('victim.db-wal')
  })

  it('is not written through a link to a file that is not there yet', () => {
    symlinkSync('later.db', partial())
    expectRefused('b.db.partial', 'it is a symbolic link')
    expect(existsSync(at('later.db'))).toBe(false)
  })

  it('is not a file with a second name', async () => {
    await empty(at('other.db'))
    linkSync(at('other.db'), partial())
    expectRefused('b.db.partial', 'it has a second name')
  })

  it('is not a file that others may read or write', async () => {
    for (const mode of [0o644, 0o620, 0o606]) {
      await empty(partial())
      chmodSync(partial(), mode)
      expectRefused('b.db.partial', `others may read or write it (mode ${mode.toString(8)})`)
    }
  })

  it('is a regular file', () => {
    mkdirSync(partial())
    expectRefused('b.db.partial', 'it is a folder')
  })

  it('is no pipe, at whose other end somebody reads', () => {
    expect(spawnSync('mkfifo', ['-m', '600', partial()]).status).toBe(0)
    expectRefused('b.db.partial', 'it is no regular file')
  })

  it.each(['-wal', '-shm', '-journal'])('has no planted %s', async (end) => {
    await empty(partial())
    writeFileSync(at('planted'), '')
    symlinkSync('planted', `${partial()}${end}`)
    expectRefused(`b.db.partial${end}`, 'it is a symbolic link')
  })

  itIf(isRoot, 'only root can give a file to another user')('is not the file of another user', async () => {
    await empty(partial())
    const { chownSync } = await import('node:fs')
    chownSync(partial(), 12345, 12345)
    expectRefused('b.db.partial', 'it belongs to another user')
  })

  it('is the same file from its begin to its end', async () => {
    const claimed = claimFile(partial())
    expect(() => assertSameFile(claimed)).not.toThrow()
    renameSync(partial(), at('moved'))
    expect(() => assertSameFile(claimed)).toThrow('another file has taken its place')
    writeFileSync(partial(), '')
    expect(() => assertSameFile(claimed)).toThrow('another file has taken its place')
    symlinkSync('moved', at('link'))
    expect(() => assertSameFile({ ...claimed, path: at('link') })).toThrow('another file')
  })

  it('that is one’s own goes on', async () => {
    await empty(partial())
    expect(store.json(['backup', 'b.db'])).toMatchObject({ status: 0, report: { copied: 2, finished: true } })
    expect(statSync(at('b.db')).mode & 0o777).toBe(0o600)
  })
})
