/** drizzle-kit in an application whose database holds our tables too: what push, generate and migrate do to them. */
import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { beforeEach, describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { EnvelopeCrypto, generateMasterKey, type KeystoreEvent, localMasterKey } from '../../src/index.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { itIf } from '../support/conditional.js'
import { dialects } from '../support/databases.js'
import { runSql } from '../support/raw-database.js'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))
const TABLES = ['__drizzle_keystore_migrations', 'encryption_keys']
const FILTER = TABLES.map((table) => `!${table}`)
/** drizzle-kit 1.0 asks before it drops a table with rows, in spite of --force, and there is no terminal here. */
const ASKS_BEFORE_DROPPING = !versionOfKit().startsWith('0.')
const masterKeys = localMasterKey(generateMasterKey())
const cleanups = cleanUpAfterEach()

function versionOfKit(): string {
  return JSON.parse(readFileSync(join(ROOT, 'node_modules/drizzle-kit/package.json'), 'utf8')).version
}

describe.each(dialects)('on %s', (dialect) => {
  let folder: string
  let url: string
  beforeEach(async () => {
    folder = cleanups.folder()
    url = await cleanups.database(dialect)
    mkdirSync(join(folder, 'node_modules'))
    const modules = ['drizzle-orm', 'drizzle-kit', 'better-sqlite3', 'pg']
    for (const name of modules)
      symlinkSync(join(ROOT, 'node_modules', name), join(folder, 'node_modules', name))
    symlinkSync(ROOT, join(folder, 'node_modules', 'drizzle-keystore'))
    writeSchema('')
    writeConfig({})
  })

  /** The application's schema: a table of its own, and what is added. */
  function writeSchema(more: string): void {
    const [core, table] = dialect === 'sqlite' ? ['sqlite-core', 'sqliteTable'] : ['pg-core', 'pgTable']
    const lines = [
      `import { ${table}, text } from 'drizzle-orm/${core}'`,
      `export const notes = ${table}('notes', { id: text('id').primaryKey(), body: text('body') })`,
      more,
    ]
    writeFileSync(join(folder, 'schema.ts'), lines.join('\n'))
  }

  function writeConfig(more: { readonly tablesFilter?: readonly string[] }): void {
    const config = {
      dialect: dialect === 'sqlite' ? 'sqlite' : 'postgresql',
      schema: './schema.ts',
      out: './drizzle',
      dbCredentials: { url },
      ...more,
    }
    writeFileSync(join(folder, 'drizzle.config.ts'), `export default ${JSON.stringify(config)}\n`)
  }

  const kit = async (...words: readonly string[]) => {
    const bin = join(folder, 'node_modules', 'drizzle-kit', 'bin.cjs')
    return promisify(execFile)(process.execPath, [bin, ...words], { cwd: folder })
  }

  async function tables(): Promise<string[]> {
    const rows = await runSql(
      dialect,
      url,
      dialect === 'sqlite'
        ? `select name from sqlite_schema where type = 'table'`
        : `select tablename as name from pg_tables where schemaname = 'public'`,
    )
    return rows.map(({ name }) => String(name)).sort()
  }

  async function service(options: { readonly migrate?: 'off' } = {}) {
    const events: KeystoreEvent[] = []
    const store = await openKeyStore(url, options)
    const onEvent = (event: KeystoreEvent) => events.push(event)
    const envelope = await EnvelopeCrypto.open({ store, masterKeys, onEvent })
    cleanups.add(() => envelope.close())
    return { envelope, events }
  }

  it('tablesFilter keeps our tables out of push, generate and migrate', async () => {
    const asDocumented = `tablesFilter: ['${FILTER.toReversed().join("', '")}']`
    for (const page of ['docs/DATABASES.md', 'docs/OPERATIONS.md'])
      expect(readFileSync(join(ROOT, page), 'utf8')).toContain(asDocumented)
    writeConfig({ tablesFilter: FILTER })
    await kit('push', '--force')
    expect(await tables()).toEqual(['notes'])
    const { envelope } = await service()
    const token = await envelope.encrypt('alice', 'x')
    await envelope.close()
    const before = await tables()
    expect(before).toEqual([...TABLES, 'notes'])
    writeSchema(
      `export const more = ${dialect === 'sqlite' ? 'sqliteTable' : 'pgTable'}('more', { id: text('id') })`,
    )
    // A new table beside tables that would be dropped is a question to kit: was one renamed?
    await kit('push', '--force')
    expect(await tables()).toEqual([...TABLES, 'more', 'notes'])
    const again = await service()
    expect(await again.envelope.decrypt('alice', token)).toBe('x')
  })

  it('migrate applies the application’s own migrations beside ours', async () => {
    const { envelope } = await service()
    const token = await envelope.encrypt('alice', 'x')
    await envelope.close()
    await kit('generate')
    await kit('migrate')
    expect(await tables()).toEqual(expect.arrayContaining([...TABLES, 'notes']))
    const again = await service()
    expect(await again.envelope.decrypt('alice', token)).toBe('x')
  })

  it('push without tablesFilter drops our tables, and the first token shows it', async () => {
    await kit('push', '--force')
    const { envelope } = await service()
    const token = await envelope.encrypt('alice', 'x')
    await envelope.close()
    if (ASKS_BEFORE_DROPPING) {
      await expect(kit('push', '--force')).rejects.toThrow()
      expect(await tables()).toEqual([...TABLES, 'notes'])
      const { envelope: same } = await service()
      expect(await same.decrypt('alice', token)).toBe('x')
      return
    }
    await kit('push', '--force')
    expect(await tables()).toEqual(['notes'])
    const { envelope: again, events } = await service()
    const lost = { code: 'ERR_KEY_NOT_FOUND', message: expect.stringContaining('tablesFilter') }
    await expect(again.decrypt('alice', token)).rejects.toMatchObject(lost)
    expect(events).toEqual([{ type: 'keysLost', users: [{ userId: 'alice', version: 1 }], count: 1 }])
    // Asked once a second at most.
    await expect(again.decrypt('alice', token)).rejects.toMatchObject({ code: 'ERR_KEY_NOT_FOUND' })
    expect(events).toHaveLength(1)
  })

  it("a schema that lists the table owns it: push makes and keeps it, with migrate: 'off'", async () => {
    writeSchema(`export { encryptionKeys } from 'drizzle-keystore/schema/${dialect}'`)
    await kit('push', '--force')
    expect(await tables()).toEqual(['encryption_keys', 'notes'])
    const { envelope } = await service({ migrate: 'off' })
    const token = await envelope.encrypt('alice', 'x')
    await envelope.close()
    await kit('push', '--force')
    const again = await service({ migrate: 'off' })
    expect(await again.envelope.decrypt('alice', token)).toBe('x')
  })

  describe('and the application has a CHECK, such as tokenCheck', () => {
    const [core, table] = dialect === 'sqlite' ? ['sqlite-core', 'sqliteTable'] : ['pg-core', 'pgTable']
    const SECRETS = `
      import { ${table} as table, text as column } from 'drizzle-orm/${core}'
      import { encryptedText, tokenCheck } from 'drizzle-keystore/drizzle/${dialect}'
      export const secrets = table(
        'secrets',
        { id: column('id').primaryKey(), value: encryptedText('value', { context: 'secrets.value' }) },
        (t) => [tokenCheck(t.value)],
      )`

    /** What kit throws holds its whole output, and vitest cannot show it. */
    async function failsOnIndex(): Promise<boolean> {
      const { stdout, stderr } = await kit('push', '--force').catch((error) => error)
      return /index \w+ already exists/.test(stdout + stderr)
    }

    it('push may be run again and again, with tablesFilter', async () => {
      writeSchema(SECRETS)
      writeConfig({ tablesFilter: FILTER })
      const { envelope } = await service()
      const token = await envelope.encrypt('alice', 'x')
      await envelope.close()
      for (let i = 0; i < 3; i++) await kit('push', '--force')
      expect(await tables()).toEqual([...TABLES, 'notes', 'secrets'])
      const again = await service()
      expect(await again.envelope.decrypt('alice', token)).toBe('x')
    })

    it('a schema that lists our table too is not pushed twice by kit 0.31 on SQLite; no key is lost', async () => {
      writeSchema(`${SECRETS}\nexport { encryptionKeys } from 'drizzle-keystore/schema/${dialect}'`)
      await kit('push', '--force')
      const { envelope } = await service({ migrate: 'off' })
      const token = await envelope.encrypt('alice', 'x')
      await envelope.close()
      // Kit makes each table anew that has a CHECK if there are two of them, and its index twice (drizzle-team/drizzle-orm#4574).
      expect(await failsOnIndex()).toBe(dialect === 'sqlite' && versionOfKit().startsWith('0.31.'))
      const again = await service({ migrate: 'off' })
      expect(await again.envelope.decrypt('alice', token)).toBe('x')
    })

    itIf(dialect === 'sqlite' && versionOfKit().startsWith('0.31.'), 'it is of kit 0.31 on SQLite')(
      'which is so of any two tables with a CHECK, one of which has an index',
      async () => {
        writeSchema(`
          import { check, index, sqliteTable as table } from 'drizzle-orm/sqlite-core'
          import { sql } from 'drizzle-orm'
          const some = (name) => table(name, { a: text('a') }, (t) => [check(name + '_c', sql\`a <> ''\`), index(name + '_i').on(t.a)])
          export const [one, two] = [some('one'), some('two')]`)
        await kit('push', '--force')
        expect(await failsOnIndex()).toBe(true)
      },
    )
  })
})
