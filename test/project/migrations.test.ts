/** The folders of migrations, the SQL embedded from them, and the check that both match src/table.ts. */
import { spawnSync } from 'node:child_process'
import { cpSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { encryptionKeysDeclaration } from '../../src/table.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { dialects } from '../support/databases.js'
import { connectRaw, runSql } from '../support/raw-database.js'
import { root } from '../support/root.js'
import { dumpSchema, migrationsOf } from '../support/schema-dumps.js'

const cleanups = cleanUpAfterEach()

describe.each(dialects)('the %s migrations', (dialect) => {
  const folder = join(root, 'migrations', dialect)

  /** Applies the folder statement by statement, as any migration tool does. */
  async function applyFolder(url: string) {
    const journal = JSON.parse(readFileSync(join(folder, 'meta', '_journal.json'), 'utf8'))
    const connection = await connectRaw(dialect, url)
    try {
      for (const { tag } of journal.entries as { tag: string }[]) {
        const statements = readFileSync(join(folder, `${tag}.sql`), 'utf8').split('--> statement-breakpoint')
        for (const statement of statements) await connection.run(statement)
      }
    } finally {
      await connection.close()
    }
  }

  it('give an empty database the same schema as the store does', async () => {
    const [byHand, byStore] = [await cleanups.database(dialect), await cleanups.database(dialect)]
    await applyFolder(byHand)
    await (await openKeyStore(byStore)).close()
    const dump = await dumpSchema(dialect, byStore)
    expect(dump).toEqual(await dumpSchema(dialect, byHand))

    // The comparison would prove nothing if the dump left out the table or small differences.
    expect(JSON.stringify(dump)).toContain(encryptionKeysDeclaration.kekIndex.name)
    expect(JSON.stringify(dump)).toContain(encryptionKeysDeclaration.versionCheck)
    await runSql(dialect, byHand, 'create index one_more on encryption_keys (created_at)')
    expect(await dumpSchema(dialect, byHand)).not.toEqual(dump)
  })

  it('end with the columns, the nullability and the primary key of the declaration', async () => {
    const url = await cleanups.database(dialect)
    await applyFolder(url)
    const columns = await runSql(
      dialect,
      url,
      dialect === 'sqlite'
        ? `select name, "notnull" = 0 as nullable, pk from pragma_table_info('encryption_keys') order by name`
        : `select c.column_name as name, (c.is_nullable = 'YES')::int as nullable, coalesce(k.ordinal_position, 0) as pk
            from information_schema.columns c left join information_schema.key_column_usage k
              using (table_schema, table_name, column_name)
            where c.table_name = 'encryption_keys' order by name`,
    )
    const { columns: declared, primaryKey } = encryptionKeysDeclaration
    const keyColumns: readonly string[] = primaryKey.columns
    const wanted = Object.entries(declared).map(([key, { name, nullable }]) => ({
      name,
      nullable: Number(nullable),
      pk: 1 + keyColumns.indexOf(key),
    }))
    expect(columns).toEqual(wanted.sort((a, b) => (a.name < b.name ? -1 : 1)))
  })

  it('are embedded completely, in the order of their journal', () => {
    const files = readdirSync(folder).filter((name) => name.endsWith('.sql'))
    expect(migrationsOf(dialect).map(({ tag }) => `${tag}.sql`)).toEqual(files.sort())
    for (const { tag, statements } of migrationsOf(dialect)) {
      const text = readFileSync(join(folder, `${tag}.sql`), 'utf8').replaceAll('\r\n', '\n')
      const rest = statements.reduce((left, statement) => left.replace(statement, ''), text)
      expect(rest.replaceAll('--> statement-breakpoint', '').trim()).toBe('')
    }
  })
})

describe('the check of generated files', () => {
  const TABLE = join('src', 'table.ts')
  const EMBEDDED = join('src', 'adapters', 'generated', 'migrations.ts')

  /** A copy of the parts of the project that the check reads, which a test may damage. @returns its folder */
  function scratchProject(): string {
    const path = cleanups.folder()
    for (const entry of ['drizzle.config.ts', 'tsconfig.json', 'package.json', 'src', 'migrations']) {
      cpSync(join(root, entry), join(path, entry), { recursive: true })
    }
    symlinkSync(join(root, 'node_modules'), join(path, 'node_modules'))
    return path
  }

  function check(...args: string[]) {
    const script = join(root, 'scripts', 'generate-migrations.mjs')
    const run = spawnSync(process.execPath, [script, '--check', ...args], { encoding: 'utf8' })
    return { status: run.status, output: run.stdout + run.stderr }
  }

  /** Replaces a part of a file. Fails if it is not there. */
  function edit(project: string, file: string, from: string | RegExp, to: string) {
    const before = readFileSync(join(project, file), 'utf8')
    const after = before.replace(from, to)
    expect(after, file).not.toBe(before)
    writeFileSync(join(project, file), after)
  }

  it('passes on this project', () => {
    expect(check()).toEqual({ status: 0, output: expect.stringContaining('up to date') })
  })

  it('fails when the table has one more column than the migrations make', () => {
    const project = scratchProject()
    expect(check('--root', project).status).toBe(0)
    edit(
      project,
      TABLE,
      /( *)shreddedAt: \{.*\n/,
      "$&$1note: { name: 'note', type: 'text', nullable: true },\n",
    )
    for (const dialect of ['sqlite', 'postgres']) {
      const file = join('src', 'adapters', dialect, 'schema.ts')
      edit(project, file, /( *)shreddedAt: instant\(.*\n/, '$&$1note: text(columns.note.name),\n')
    }
    const { status, output } = check('--root', project)
    expect(status).toBe(1)
    expect(output).toContain('migrations/sqlite does not match src/table.ts')
    expect(output).toContain('migrations/postgres does not match src/table.ts')
    // The check repairs nothing: it must leave the folders as they are.
    expect(readdirSync(join(project, 'migrations', 'sqlite'))).toEqual(
      readdirSync(join(root, 'migrations', 'sqlite')),
    )
  })

  it('fails when the embedded SQL was edited', () => {
    const project = scratchProject()
    edit(project, EMBEDDED, 'ADD `kek_id` text;', 'ADD `kek_id` blob;')
    const { status, output } = check('--root', project)
    expect(status).toBe(1)
    expect(output).toContain(`${EMBEDDED} does not match migrations/`)
  })

  it.each(['sqlite', 'postgres'])('fails when a %s migration was edited', (dialect) => {
    const project = scratchProject()
    edit(
      project,
      join('migrations', dialect, '0001_versions_and_keks.sql'),
      /kek_id(.) text/,
      'kek_id$1 varchar',
    )
    const { status, output } = check('--root', project)
    expect(status).toBe(1)
    expect(output).toContain(`${EMBEDDED} does not match migrations/`)
  })

  it('passes on a checkout with CRLF, whose hashes are the same', () => {
    const project = scratchProject()
    for (const dialect of ['sqlite', 'postgres']) {
      const folder = join(project, 'migrations', dialect)
      for (const name of readdirSync(folder).filter((name) => name.endsWith('.sql'))) {
        edit(project, join('migrations', dialect, name), /\n/g, '\r\n')
      }
    }
    expect(check('--root', project)).toEqual({ status: 0, output: expect.stringContaining('up to date') })
  })
})
