/** Commands on the SQLite file of an application change nothing in it but keys: not its journal mode, nor what else its header has. */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import Database from 'better-sqlite3'
import { beforeEach, describe, expect, it } from 'vitest'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import { EnvelopeCrypto, generateMasterKey, masterKeysFromFile } from '../../src/index.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { runKeystore } from '../support/command.js'
import { isChosen } from '../support/databases.js'

const PRAGMAS = ['journal_mode', 'application_id', 'user_version', 'auto_vacuum', 'page_size', 'encoding']

describe.runIf(isChosen('sqlite')).each(['delete', 'wal'])(
  "an application's file in journal mode %s",
  (mode) => {
    const cleanups = cleanUpAfterEach()
    let folder: string
    let token: string
    beforeEach(async () => {
      folder = cleanups.folder()
      mkdirSync(join(folder, 'keys'))
      for (const name of ['a', 'b'])
        writeFileSync(join(folder, 'keys', `${name}.key`), `${generateMasterKey()}\n`, { mode: 0o600 })
      const client = new Database(join(folder, 'app.db'))
      client.pragma('page_size = 8192')
      client.pragma('auto_vacuum = incremental')
      client.pragma(`journal_mode = ${mode}`)
      client.pragma('application_id = 1234567')
      client.pragma('user_version = 42')
      client.exec(`create table t (id text primary key, owner text, secret text);
      insert into t values ('1', 'alice', 'plain')`)
      const store = sqliteKeyStore({ db: { $client: client } })
      const masterKeys = masterKeysFromFile(join(folder, 'keys/a.key'))
      const envelope = await EnvelopeCrypto.open({ store, masterKeys })
      token = await envelope.encrypt('alice', 'hush')
      await envelope.close()
      client.close()
    })

    const env = { KEYSTORE_URL: 'app.db', API_KEY_MASTER_KEY_FILE: 'keys/a.key' }
    const run = (args: readonly string[], input = token) => {
      const { status, stdout, stderr } = runKeystore(folder, args, { env, input })
      expect([args.join(' '), status, stderr]).toEqual([
        args.join(' '),
        0,
        expect.not.stringContaining('ERR_'),
      ])
      return stdout
    }
    function settings(file = 'app.db'): unknown[] {
      const client = new Database(join(folder, file), { readonly: true })
      const values = PRAGMAS.map((pragma) => client.pragma(pragma, { simple: true }))
      client.close()
      return values
    }
    const digest = () =>
      createHash('sha256')
        .update(readFileSync(join(folder, 'app.db')))
        .digest('hex')
    const both = ['--master-key-file', 'keys/b.key', '--previous-key-file', 'keys/a.key']
    const sweep = ['--db', 'app.db', '--table', 't', '--key', 'id', '--owner', 'owner', '--column', 'secret']

    /** Commands that change nothing. Where there is a write-ahead log already, less can go wrong. */
    const reading = [
      ['status'],
      ['doctor'],
      ['migrate', '--check'],
      ['decrypt', '--user', 'alice'],
      ...(mode === 'wal' ? [] : [['migrate'], ['encrypt', '--user', 'alice'], ['init']]),
      ...(mode === 'wal'
        ? []
        : [
            ['rewrap', '--dry-run', ...both],
            ['rotate-user', 'alice', '--dry-run'],
          ]),
      ...(mode === 'wal' ? [] : [['shred-user', 'alice', '--dry-run']]),
      ['reencrypt', ...sweep, '--context', 't.secret', '--plaintext', '--dry-run'],
    ]
    it.each(reading)('is not changed by %s %s %s', (...args) => {
      const before = [digest(), ...settings()]
      run(args, args[0] === 'encrypt' ? 'other' : token)
      expect([digest(), ...settings()]).toEqual(before)
    })

    it('is not changed by a copy of it, nor is a backup that is restored', () => {
      const before = [digest(), ...settings()]
      run(['backup', 'b.db'])
      run(['copy', '--from', 'app.db', '--to', 'copied.db'])
      expect([digest(), ...settings()]).toEqual(before)
      expect([settings('b.db')[0], settings('copied.db')[0]]).toEqual(['delete', 'wal'])
      run(['restore', 'b.db'])
      expect([settings(), settings('b.db')[0]]).toEqual([before.slice(1), 'delete'])
    })

    /** Runs a command, which leaves all settings as they are. @returns what it prints */
    function kept(args: readonly string[], input?: string): string {
      const before = settings()
      const said = run(args, input)
      expect([args[0], ...settings()]).toEqual([args[0], ...before])
      return said
    }

    it('keeps its settings under commands that write keys and tokens', () => {
      kept(['rotate-user', 'alice'])
      kept(['encrypt', '--user', 'bob'], 'secret of bob')
      kept(['rewrap', ...both])
      kept(['reencrypt', ...sweep, '--context', 't.secret', '--plaintext', ...both])
      expect(kept(['decrypt', '--user', 'alice', ...both])).toBe('hush')
    })

    it('keeps its settings under commands that erase keys', () => {
      kept(['rotate-user', 'alice'])
      kept(['prune', 'alice', '--before-version', '2', '--tokens-reencrypted', '--include-first'])
      expect(kept(['shred-user', 'alice', '--yes'])).toContain('in no file of the database')
      kept(['doctor', '--finish-erasure'])
      expect(existsSync(join(folder, 'app.db-journal'))).toBe(false)
    })
  },
)

describe.runIf(isChosen('sqlite'))('an application’s file without our tables', () => {
  const cleanups = cleanUpAfterEach()

  it.each(['init', 'quickstart'])(
    'keeps its journal when %s makes them, and a file that it makes has a log',
    (command) => {
      const folder = cleanups.folder()
      const client = new Database(join(folder, 'app.db'))
      client.exec('create table t (id)')
      client.close()
      for (const [store, expected] of [
        ['app.db', 'delete'],
        ['new.db', 'wal'],
      ]) {
        const env = { KEYSTORE_URL: store }
        expect(runKeystore(folder, [command], { env }).status).toBe(0)
        const made = new Database(join(folder, String(store)), { readonly: true })
        expect(made.pragma('journal_mode', { simple: true })).toBe(expected)
        made.close()
      }
    },
  )
})
