/** Every command of docs/OPERATIONS.md is run in the order of the page, each section in a folder and a store of its own. */
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  EnvelopeCrypto,
  generateMasterKey,
  type KeyRecord,
  masterKeyring,
  masterKeysFromFile,
} from '../../src/index.js'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { dialects, type FreshDatabase, freshDatabase } from '../support/databases.js'
import { codeBlocks, runShellBlocks } from '../support/documents.js'
import { withStore } from '../support/fresh-store.js'
import { writeSchema } from '../support/host-commands.js'
import { type RawDatabase, rawDatabase } from '../support/raw-database.js'
import { rowsOf } from '../support/rows.js'

const document = readFileSync('docs/OPERATIONS.md', 'utf8')
const LEAK = 'A master key has leaked'

/** The commands of each section that has some. */
const sections = new Map(
  document
    .split(/^## /m)
    .map((section): [string, string[]] => [
      section.slice(0, section.indexOf('\n')),
      codeBlocks(section, 'sh'),
    ])
    .filter(([, blocks]) => blocks.length > 0),
)

interface Done {
  readonly store: CommandStore
  readonly output: string
  readonly rows: readonly KeyRecord[]
  readonly targetRows: readonly KeyRecord[]
  /** The plaintext of tokens/USER.txt under a master key, or the code of the error. */
  secretOf(userId: string, keyFile?: string): Promise<string>
}

/** What must hold after the commands of a section were run. */
const outcomes: Record<string, (done: Done) => Promise<void>> = {
  'The commands': async ({ output }) => {
    expect(output).toContain('2 live keys, 0 shredded')
    expect(output).toContain('2 rows looked at')
  },
  'Rotate the master key': async ({ store, rows, output, secretOf }) => {
    expect(output).toContain('Would rewrap 2 keys')
    expect(output).toContain('Rewrapped 2 keys')
    expect(rows.map(({ kekId }) => kekId)).toEqual(Array(2).fill(idOf(store, 'next')))
    expect(await secretOf('alice', 'next')).toBe('secret of alice')
  },
  [LEAK]: async ({ store, rows, secretOf }) => {
    expect(rows.map(({ userId, version, kekId }) => [userId, version, kekId])).toEqual([
      ['', 2, idOf(store, 'next')],
      ['alice', 2, idOf(store, 'next')],
      ['bob', 2, idOf(store, 'next')],
    ])
    expect(await secretOf('bob', 'next')).toBe('secret of bob')
    expect(await secretOf('bob')).toBe('ERR_UNKNOWN_MASTER_KEY')
  },
  'A master key is lost': async ({ rows }) => {
    expect(rows.map(({ userId }) => userId)).toEqual(['bob'])
  },
  'Shred a user': async ({ store, output, secretOf }) => {
    expect(output).toContain('Shredded "alice"')
    expect(output).toContain('Shredded the pool')
    expect(output).toContain('The erasure is finished')
    expect(readFileSync(join(store.folder, 'keys.jsonl'), 'utf8')).toContain('"alice"')
    expect(await secretOf('alice')).toBe('ERR_KEY_SHREDDED')
  },
  Tenants: async ({ store, rows, output }) => {
    expect(output).toContain('1 tenant under 1 root, 1 key of users')
    expect(output).toContain('Made version 2 of the key of tenant "acme"')
    expect(output).toContain('Rewrapped 1 key ')
    expect(output.match(/Moved tenant "acme" \(key version 1, 2\)/g)).toHaveLength(2)
    expect(output).toContain('every process has forgotten')
    expect(output).toContain('Shredded tenant "acme"')
    const [first, second] = rows
    expect([first, second]).toMatchObject(
      [1, 2].map((version) => ({ version, kekId: idOf(store, 'current'), shreddedAt: expect.any(Date) })),
    )
    expect(output).toContain('Forgot 1 user of it.')
    expect(rows.slice(2).map(({ userId }) => userId)).toEqual(['alice', 'bob'])
  },
  'The key log': async ({ store, rows, output }) => {
    expect(rows.map(({ userId }) => userId)).toContain('carol')
    expect(readFileSync(join(store.folder, 'keys.jsonl'), 'utf8')).toMatch(
      /^\{"event":"minted","userId":"carol"/,
    )
    expect(output).toContain('nothing is wrong')
  },
  'Keys were lost': async ({ output, secretOf }) => {
    expect(output).toContain('Would copy 0 rows')
    expect(output).toContain('Both hold the same records.')
    expect(await secretOf('alice')).toBe('secret of alice')
  },
  'Backup and restore': async ({ store, output }) => {
    expect(output.endsWith('secret of alice')).toBe(true)
    expect(output).toContain('Both hold the same records.')
    expect([
      existsSync(join(store.folder, 'backups/monday.db')),
      existsSync(join(store.folder, 'drill.db')),
    ]).toEqual([true, false])
  },
  'The switch to Postgres': async ({ rows, targetRows, output }) => {
    expect(output).toContain('Would copy 2 rows')
    expect(targetRows).toEqual(rows)
    expect(rows).toHaveLength(2)
  },
}

/** The sections that are run on Postgres too. The commands of the others have tests of their own there. */
const DIALECT_MATTERS = [LEAK, ...['Shred a user', 'Tenants', 'Backup and restore', 'The switch to Postgres']]

it('has an outcome for each section with commands', () => {
  expect([...sections.keys()]).toEqual(Object.keys(outcomes))
})

describe.each(dialects)('on %s', (dialect) => {
  let store: CommandStore
  let target: FreshDatabase
  beforeEach(async () => {
    store = await commandStore(dialect)
    target = await freshDatabase(dialects.find((other) => other !== dialect) ?? dialect)
    const inFolder = (path: string) => join(store.folder, path)
    mkdirSync(inFolder('tokens'))
    for (const [userId, token] of Object.entries(await store.mint('alice', 'bob')))
      writeFileSync(inFolder(`tokens/${userId}.txt`), `${token}\n`)
    renameSync(inFolder('keys/a.key'), inFolder('keys/current.key'))
    copyFileSync(inFolder('keys/current.key'), inFolder('keys/found.key'))
    writeFileSync(inFolder('keys.jsonl'), '')
  })
  afterEach(async () => {
    await target.remove()
    await store.remove()
  })

  /** A user of tenant acme, and the key of the customer. */
  async function makeTenant(): Promise<void> {
    writeFileSync(join(store.folder, 'keys/acme.key'), `${generateMasterKey()}\n`, { mode: 0o600 })
    const { primary } = masterKeysFromFile(join(store.folder, 'keys/current.key'))
    const masterKeys = masterKeyring({ primary, tenantOf: (userId) => (userId === 'erin' ? 'acme' : null) })
    await store.use(async (opened) => {
      const envelope = await EnvelopeCrypto.open({ store: opened, masterKeys, closeStore: false })
      await envelope.encrypt('erin', 'secret of erin')
    })
  }

  /** An application with a column of fingerprints, whose registry is dist/registry.js. */
  async function makeApplication(): Promise<RawDatabase> {
    const app = await rawDatabase(dialect)
    await app.query(
      'create table logins (id integer primary key, user_id text, email text, email_fp text unique)',
    )
    writeSchema(
      store.folder,
      dialect,
      `export const logins = table('logins', {
         id: integer('id').primaryKey(),
         userId: text('user_id'),
         email: encryptedText('email', { context: 'logins.email' }),
         emailFingerprint: fingerprintText('email_fp', { of: 'email' }).unique(),
       })
       export const encrypted = defineEncrypted({ logins })`,
    )
    mkdirSync(join(store.folder, 'dist'))
    writeFileSync(join(store.folder, 'package.json'), '{ "type": "module" }')
    writeFileSync(join(store.folder, 'dist/registry.js'), "export * from '../schema.mjs'")
    await withService('current', (envelope) => envelope.pool.encrypt('of all'))
    return app
  }

  /** Opens a service under the master key of a file, with the newest keys. */
  const withService = <T>(name: string, work: (envelope: EnvelopeCrypto) => Promise<T>): Promise<T> =>
    store.use(async (opened) => {
      const masterKeys = masterKeysFromFile(join(store.folder, `keys/${name}.key`))
      return work(await EnvelopeCrypto.open({ store: opened, masterKeys, cache: false, closeStore: false }))
    })

  const PRINT = { name: 'logins.email' }
  /** Inserts rows as the application does. */
  async function insertLogins(
    app: RawDatabase,
    keyName: string,
    ...logins: readonly [id: number, userId: string][]
  ) {
    await withService(keyName, async (envelope) => {
      for (const [id, user_id] of logins) {
        const email = `${id}@b.c`
        await app.insert('logins', [
          {
            ...{ id, user_id },
            email: await envelope.encrypt(user_id, email, { column: 'logins.email' }),
            email_fp: await envelope.fingerprint(user_id, email, PRINT),
          },
        ])
      }
    })
  }

  // Many commands, each a process of its own.
  it('brings fingerprints along after a leak', { timeout: 180_000 }, async () => {
    const app = await makeApplication()
    await insertLogins(app, 'current', [1, 'alice'], [2, 'alice'], [3, 'bob'])
    const blocks = sections.get(LEAK) ?? []
    const isPrune = (block: string) => block.includes('keystore prune')
    expect(blocks.filter(isPrune)).toHaveLength(1)
    const pruneAt = blocks.findIndex(isPrune)
    const env = {
      KEYSTORE_URL: store.url,
      DATABASE_URL: app.url,
      API_KEY_MASTER_KEY_FILE: 'keys/current.key',
    }
    runShellBlocks(store.folder, blocks.slice(0, pruneAt), env)
    const found = async (userId: string, id: number) => {
      const prints = await withService('next', (envelope) =>
        envelope.fingerprints(userId, `${id}@b.c`, PRINT),
      )
      const stored = await app.query(`select email_fp from logins where id = ${id}`)
      return prints.includes(String(stored[0]?.email_fp))
    }
    // Between the sweep and the prune: all are found, and a new one is under version 1.
    await insertLogins(app, 'next', [4, 'alice'])
    for (const [id, userId] of [
      [1, 'alice'],
      [3, 'bob'],
      [4, 'alice'],
    ] as const)
      expect([id, await found(userId, id)]).toEqual([id, true])
    const after = { ...env, API_KEY_MASTER_KEY_FILE: 'keys/next.key' }
    const [prune = '', ...rest] = blocks.slice(pruneAt)
    rmSync(join(store.folder, 'bin'), { recursive: true })
    runShellBlocks(store.folder, [prune], after)
    // Without the step that follows, doctor says what is missing, and nothing finds the new one.
    const doctor = ['doctor', '--schema', 'dist/registry.js']
    const forgotten = store.run(doctor, { env: after })
    expect(forgotten.status).toBe(1)
    expect(forgotten.stdout).toContain('error: staleFingerprint (1)')
    expect(forgotten.stdout).toContain(
      'logins, column email_fp: 1 of 4 rows looked at hold a fingerprint under a version',
    )
    expect(await found('alice', 4)).toBe(false)
    expect(await found('alice', 1)).toBe(true)
    rmSync(join(store.folder, 'bin'), { recursive: true })
    const output = runShellBlocks(store.folder, rest, after)
    expect(output).toContain('logins: re-encrypted 1 value')
    expect(output).not.toContain('column email_fp')
    const stored = await app.query('select id, user_id, email_fp from logins order by id')
    for (const { id, user_id, email_fp } of stored) {
      expect(email_fp).toMatch(/^f2:2:[\w-]{43}$/)
      expect(email_fp).toBe(
        await withService('next', (envelope) => envelope.fingerprint(String(user_id), `${id}@b.c`, PRINT)),
      )
    }
    await app.close()
  })

  it.each(dialect === 'sqlite' ? Object.keys(outcomes) : DIALECT_MATTERS)('runs "%s"', async (heading) => {
    const blocks = sections.get(heading) ?? []
    if (heading === 'Tenants') await makeTenant()
    const app = heading === LEAK ? await makeApplication() : null
    if (heading === 'Keys were lost') store.run(['backup', 'backups/tuesday.db'])
    const output = runShellBlocks(store.folder, blocks, {
      KEYSTORE_URL: store.url,
      KEYSTORE_TO_URL: target.url,
      API_KEY_MASTER_KEY_FILE: 'keys/current.key',
      ...(app !== null && { DATABASE_URL: app.url }),
    })
    await app?.close()
    await outcomes[heading]?.({
      store,
      output,
      rows: await store.rows(),
      targetRows: await withStore(target.url, rowsOf),
      secretOf: async (userId, keyFile = 'current') => {
        const env = { API_KEY_MASTER_KEY_FILE: `keys/${keyFile}.key` }
        const input = readFileSync(join(store.folder, `tokens/${userId}.txt`), 'utf8')
        const { stdout, stderr } = store.run(['decrypt', '--user', userId], { env, input })
        return stdout || (/\[(ERR_\w+)\]/.exec(stderr)?.[1] ?? stderr)
      },
    })
  })
})

it('says what to do about every kind of finding', () => {
  const verify = readFileSync('src/lifecycle/verify.ts', 'utf8')
  const ofRows =
    /export interface Finding \{(.*?)readonly kind/s.exec(verify)?.[1]?.match(/(?<=`)[a-z]\w+(?=`)/gi) ?? []
  const [, ofStores = ''] =
    /readonly kind: ('schemaVersion'.*)/.exec(readFileSync('src/store.ts', 'utf8')) ?? []
  const kinds = [...ofRows, ...(ofStores.match(/\w+/g) ?? [])]
  expect(kinds.length).toBeGreaterThan(10)
  const table = document.slice(document.indexOf('## What doctor finds'))
  for (const kind of kinds) expect(table).toMatch(new RegExp(`^\\| \`${kind}\` `, 'm'))
})

function idOf(store: CommandStore, name: string): string {
  return masterKeysFromFile(join(store.folder, 'keys', `${name}.key`)).primary.id
}
