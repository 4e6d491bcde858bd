/** The command where better-sqlite3 is not installed: it opens files with @libsql/client, and init makes the master key all the same. */
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createClient } from '@libsql/client'
import { beforeEach, describe, expect, it } from 'vitest'
import { generateMasterKey } from '../../src/index.js'
import { commandInApplication, LIBSQL, runInApplication } from '../support/bare-application.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { itIf } from '../support/conditional.js'
import { isChosen } from '../support/databases.js'

/** Later versions of Node.js bring a SQLite of their own. */
const hasOwnSqlite = Number.parseInt(process.versions.node, 10) >= 22
const whereLibsqlIsNeeded = itIf(!hasOwnSqlite, 'this Node.js has a SQLite of its own')

describe.runIf(isChosen('sqlite'))('without better-sqlite3', () => {
  const cleanups = cleanUpAfterEach()
  let folder: string
  beforeEach(() => {
    folder = cleanups.folder()
  })
  const read = (name: string) => readFileSync(join(folder, name), 'utf8')

  describe('commands open a file with the SQLite of Node.js, or else with @libsql/client', () => {
    let keystore: ReturnType<typeof commandInApplication>
    let token: string
    beforeEach(() => {
      keystore = commandInApplication(folder, hasOwnSqlite ? [] : LIBSQL)
      expect(said('init')).toContain('Key store:  data/keystore.db: applied 0000')
      token = said('encrypt', '--user', 'alice')
    })
    function said(...args: string[]): string {
      const { status, stdout, stderr } = keystore(args, { input: 'hush' })
      expect([args[0], status, stderr]).toEqual([args[0], 0, expect.not.stringContaining('ERR_')])
      return stdout
    }

    it('which is made for its owner alone, and whose keys are read, rewrapped and looked at', () => {
      expect(statSync(join(folder, 'data/keystore.db')).mode & 0o777).toBe(0o600)
      const decrypted = keystore(['decrypt', '--user', 'alice'], { input: token })
      expect(decrypted).toMatchObject({ status: 0, stdout: 'hush' })
      said('new-master-key', 'keys/b.key')
      const both = ['--master-key-file', 'keys/b.key', '--previous-key-file', 'data/master.key']
      expect(said('rewrap', ...both)).toContain('Rewrapped 1 key')
      // What the driver cannot do is nothing to mend.
      const found = said('doctor', ...both)
      if (!hasOwnSqlite) {
        expect(found).toMatch(/^note: setting \(2\)$/m)
        expect(found).toContain('`npx keystore doctor --finish-erasure`')
      }
      expect(found).not.toMatch(/warning: setting|store\.maintenance/)
    })

    it('into a backup and out of it', () => {
      said('rotate-user', 'alice')
      said('backup', 'backups/monday.db')
      said('restore', 'backups/monday.db', '--store', 'drill.db')
      expect(said('status', '--store', 'drill.db')).toContain('2 live keys')
      // None of them left a file beside the backup.
      expect(existsSync(join(folder, 'backups/monday.db-wal'))).toBe(false)
    })

    it('to erase keys in it', () => {
      expect(said('shred-user', 'alice', '--yes')).toContain('version 1 erased')
      said('doctor', '--finish-erasure')
      expect(said('status')).toContain('0 live keys, 1 shredded')
    })
  })

  whereLibsqlIsNeeded('a sweep opens the file of the application with it', async () => {
    const client = createClient({ url: `file:${join(folder, 'app.db')}` })
    await client.executeMultiple(
      `create table t (id text primary key, owner text, secret text); insert into t values ('1', 'alice', 'hush')`,
    )
    client.close()
    const keystore = commandInApplication(folder, LIBSQL)
    keystore(['init', '--store', 'app.db'])
    const sweep = [
      '--table',
      't',
      '--key',
      'id',
      '--owner',
      'owner',
      '--column',
      'secret',
      '--context',
      't.secret',
    ]
    const { status, stdout } = keystore([
      'reencrypt',
      '--store',
      'app.db',
      '--db',
      'app.db',
      ...sweep,
      '--plaintext',
    ])
    expect({ status, stdout }).toMatchObject({ status: 0, stdout: expect.stringContaining('1') })
  })

  whereLibsqlIsNeeded('an option that libsql cannot keep is refused', () => {
    const keystore = commandInApplication(folder, LIBSQL)
    const { status, stderr } = keystore(['init', '--adopt', '--store', 'new.db'])
    expect(status).toBe(2)
    expect(stderr).toContain('adopt is for files that better-sqlite3 opens')
    expect(existsSync(join(folder, 'new.db'))).toBe(false)
  })

  whereLibsqlIsNeeded(
    'init makes the master key without any driver, and says what to do about the store',
    () => {
      const keystore = commandInApplication(folder, [])
      const { status, stdout, stderr } = keystore(['init', '--store', 'data/app.db'])
      expect(status).toBe(1)
      expect(stderr).toMatch(
        /npm install better-sqlite3, or use Node\.js 22\.16.*Or: npm install @libsql\/client \[ERR_STORE\]/,
      )
      expect(stdout).toContain('Master key: made data/master.key (mode 0600)')
      expect(stdout).toContain('Key store:  not made')
      expect(stdout).toContain('export API_KEY_MASTER_KEY_FILE=data/master.key')
      expect(stdout).toContain('sqliteKeyStore({ db })')
      expect(stdout).not.toContain('in one folder')
      const unnamed = keystore(['init']).stdout
      expect(unnamed).toContain('sqliteKeyStore({ db }) // or postgresKeyStore({ db })')
      expect(unnamed).toContain('for Postgres as KEYSTORE_URL=postgres://… npx keystore init')
      expect(read('data/.gitignore').split('\n')).toContain('/master.key*')
      const key = read('data/master.key')
      const postgres = keystore(['init'], { env: { KEYSTORE_URL: 'postgres://u:hunter2@127.0.0.1:1/x' } })
      expect(postgres).toMatchObject({
        status: 1,
        stdout: expect.stringContaining('postgresKeyStore({ db })'),
      })
      expect(postgres.stderr).toContain('npm install pg')
      expect(postgres.stdout + postgres.stderr).not.toContain('hunter2')
      expect(read('data/master.key')).toBe(key)
    },
  )

  whereLibsqlIsNeeded('a path given to sqliteKeyStore names what opens it otherwise', async () => {
    const printed = await runInApplication(
      folder,
      LIBSQL,
      `import { sqliteKeyStore } from 'drizzle-keystore/sqlite'
      await sqliteKeyStore({ path: 'keys.db' }).ready().catch(({ code, message }) => console.log(code, message))`,
    )
    expect(printed).toMatch(/^ERR_STORE .*npm install better-sqlite3.*openKeyStore.*\{ db \}/)
  })

  whereLibsqlIsNeeded(
    'openKeyStore keeps keys in memory with it, and leaves a file that it does not make in its journal mode',
    async () => {
      const printed = await runInApplication(
        folder,
        LIBSQL,
        `import { createClient } from '@libsql/client'
      import { openKeyStore } from 'drizzle-keystore/open'
      const memory = await openKeyStore(':memory:')
      console.log((await memory.shred('alice', { forget: false })).erased)
      await memory.close()
      const mode = async () => {
        const client = createClient({ url: 'file:app.db' })
        const { rows } = await client.execute('pragma journal_mode')
        client.close()
        return rows[0][0]
      }
      const client = createClient({ url: 'file:app.db' })
      await client.execute('create table t (id)')
      client.close()
      await (await openKeyStore('app.db', { journalMode: 'keep' })).close()
      console.log(await mode())
      await (await openKeyStore('app.db')).close()
      console.log(await mode())
      await openKeyStore('none.db', { migrate: 'check' }).catch(({ code }) => console.log(code))`,
      )
      expect(printed.trim().split('\n')).toEqual(['file', 'delete', 'wal', 'ERR_SCHEMA'])
      expect(existsSync(join(folder, 'none.db'))).toBe(false)
    },
  )
})

describe('the data folder of a Postgres database', () => {
  const cleanups = cleanUpAfterEach()

  it('is named as one by every command, which cannot open it', () => {
    const folder = cleanups.folder()
    writeFileSync(join(folder, 'PG_VERSION'), '17\n')
    const keystore = commandInApplication(cleanups.folder(), [])
    const env = { API_KEY_MASTER_KEY: generateMasterKey() }
    for (const args of [['status'], ['doctor'], ['init'], ['rewrap'], ['migrate']]) {
      const { status, stderr } = keystore([...args, '--store', folder], { env })
      expect([args[0], status]).toEqual([args[0], 2])
      expect(stderr).toMatch(/data folder of a Postgres database \(PGlite.*postgresKeyStore\(\{ db \}\)/)
      expect(stderr).toMatch(/store\.maintenance.*verifyAll.*new-master-key/)
    }
    writeFileSync(join(folder, 'schema.mjs'), '')
    const schema = ['--schema', join(folder, 'schema.mjs'), '--db', folder]
    expect(keystore(['doctor', ...schema], { env }).stderr).toContain('PGlite')
  })
})
