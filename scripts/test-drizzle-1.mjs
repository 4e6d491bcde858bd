// Runs the tests of stores, schemas, columns and sources against drizzle-orm 1.0, in a temporary copy of this project.
//
//   npm run test:drizzle-1                        the newest 1.x of the registry, prereleases included
//   npm run test:drizzle-1 -- --version 1.0.0-rc.5 [--kit 1.0.0-rc.5] [FILES …]
//
// drizzle-kit's generate is run too: it must find nothing to change.
import { execFileSync, spawnSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const REPLACED = ['drizzle-orm', 'drizzle-kit']
const TESTS = ['test/adapters', 'test/drizzle', 'test/reencrypt', 'test/sources']

/** What 1.0 names otherwise, in files of the tests: relations, and conditions of relational queries that are functions. */
const RELATIONS = [
  [/import \{ relations, sql \}/, 'import { defineRelations, sql }'],
  [
    /export const ownerRelations[\s\S]*$/,
    `export const relations = defineRelations({ owners, secrets, vault }, (r) => ({
      owners: { secrets: r.many.secrets(), vault: r.many.vault() },
      secrets: { owner: r.one.owners({ from: r.secrets.ownerId, to: r.owners.id }) },
      vault: { owner: r.one.owners({ from: r.vault.ownerId, to: r.owners.id }) },
    }))`,
  ],
]
const FIELD_RELATIONS = [
  [/import \{ relations \}/, 'import { defineRelations }'],
  [
    /export const userRelations[\s\S]*(?=export const encrypted)/,
    `export const relations = defineRelations({ users, integrations }, (r) => ({
      users: { integrations: r.many.integrations() },
      integrations: { user: r.one.users({ from: r.integrations.userId, to: r.users.id }) },
    }))
`,
  ],
]
const EDITS = [
  ['test/fixtures/fields-schema-sqlite.ts', ...FIELD_RELATIONS],
  ['test/fixtures/fields-schema-postgres.ts', ...FIELD_RELATIONS],
  ['test/support/fields-app.ts', [/schema: (\w+)Schema \}\)/g, 'relations: $1Schema.relations })']],
  ['test/fixtures/host-schema-sqlite.ts', ...RELATIONS],
  ['test/fixtures/host-schema-postgres.ts', ...RELATIONS],
  ['test/support/host-app.ts', [/schema: (\w+)Schema \}\)/g, 'relations: $1Schema.relations })']],
  // The casing is the table's now, and no longer the db's.
  [
    'test/fixtures/cased-schema-sqlite.ts',
    [/integer, sqliteTable, text/, 'integer, snakeCase, text'],
    [/sqliteTable\(/, 'snakeCase.table('],
  ],
  [
    'test/fixtures/cased-schema-postgres.ts',
    [/integer, pgTable, text/, 'integer, snakeCase, text'],
    [/pgTable\(/, 'snakeCase.table('],
  ],
  // It has these itself.
  [
    'test/drizzle/validators.test.ts',
    [/'drizzle-typebox'/, "'drizzle-orm/typebox-legacy'"],
    [/'drizzle-valibot'/, "'drizzle-orm/valibot'"],
    [/'drizzle-zod'/, "'drizzle-orm/zod'"],
  ],
  ['test/drizzle/builders.test.ts', [/SQLiteSyncDialect/g, 'SQLiteDialect']],
  [
    'test/drizzle/columns.test.ts',
    [/where: (\(t, operators\) => operators\.eq\([^)]*\))/g, 'where: { RAW: $1 }'],
    [/where: eq\(secrets\.note, 'x'\) \}/, "where: { RAW: eq(secrets.note, 'x') } }"],
  ],
  [
    'test/drizzle/unreadable.test.ts',
    [/where: (\(t, operators\) => operators\.eq\([^)]*\))/g, 'where: { RAW: $1 }'],
  ],
  [
    'test/drizzle/source.test.ts',
    [/where: (\(row, \{ \w+ \}\) => \w+\([^)]*\))/g, 'where: { RAW: $1 }'],
    [/orderBy: \(row\) => row\.id/, "orderBy: { id: 'asc' }"],
    // The casing is the table's now, and no longer the db's.
    [/sqliteCore\.sqliteTable\(\s*'user keys'/, "sqliteCore.snakeCase.table('user keys'"],
    [/pgCore\.pgTable\(\s*'user keys'/, "pgCore.snakeCase.table('user keys'"],
    [/const uncased[\s\S]*?toMatchObject\(INVALID\)\n/, ''],
  ],
]

/** A host application's code, checked against the declarations that we publish. */
const APPLICATION = `
import Database from 'better-sqlite3'
import { eq } from 'drizzle-orm'
import { drizzle as onSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as onPg } from 'drizzle-orm/node-postgres'
import { pgTable, text } from 'drizzle-orm/pg-core'
import { sqliteTable, text as sqliteText } from 'drizzle-orm/sqlite-core'
import { drizzle as onPglite } from 'drizzle-orm/pglite'
import { drizzle as onPostgresJs } from 'drizzle-orm/postgres-js'
import { encryptedJson, encryptedText, tokenCheck, tokenText } from '../dist/drizzle/postgres.js'
import * as onSqliteColumns from '../dist/drizzle/sqlite.js'
import { drizzleSource } from '../dist/reencrypt/index.js'
import { encryptionKeys, encryptionKeysIn, postgresKeyStore } from '../dist/adapters/postgres/store.js'
import { encryptionKeys as sqliteKeys, sqliteKeyStore } from '../dist/adapters/sqlite/store.js'
const db = onPg('postgres://')
for (const each of [db, onPglite(), onPostgresJs('postgres://')]) postgresKeyStore({ db: each })
const sqlite = onSqlite({ client: new Database(':memory:') })
sqliteKeyStore({ db: sqlite })
await db.transaction(async (tx) => postgresKeyStore({ db: tx }))
const credentials = pgTable('credentials', {
  id: text('id').primaryKey(),
  apiKey: encryptedText('api_key', { context: 'credentials.api_key' }).notNull(),
  note: encryptedText({ context: 'credentials.note' }),
  data: encryptedJson<{ n: number }>('data', { context: 'credentials.data' }),
  token: tokenText('token'),
}, (t) => [tokenCheck(t.apiKey)])
const inSqlite = sqliteTable('credentials', {
  id: sqliteText('id').primaryKey(),
  apiKey: onSqliteColumns.encryptedText('api_key', { context: 'credentials.api_key' }).notNull(),
  note: onSqliteColumns.encryptedText({ context: 'credentials.note' }),
  data: onSqliteColumns.encryptedJson<{ n: number }>('data', { context: 'credentials.data' }),
  token: onSqliteColumns.tokenText('token'),
}, (t) => [onSqliteColumns.tokenCheck(t.apiKey)])
type Row = { id: string; apiKey: string; note: string | null; data: { n: number } | null; token: string | null }
const rows: Row[] = await db.select().from(credentials).where(eq(credentials.id, '1'))
rows.push(...sqlite.select().from(inSqlite).all())
await db.insert(credentials).values({ id: '1', apiKey: 'x' })
// @ts-expect-error a column that is not null
await db.insert(credentials).values({ id: '1' })
drizzleSource(db, credentials, { key: 'id', owner: 'id', columns: ['apiKey'] })
type KeyRow = { userId: string; version: number; encryptedKey: Uint8Array; kekId: string | null; createdAt: Date }
const keys: KeyRow[] = await db.select().from(encryptionKeys)
keys.push(...(await db.select().from(encryptionKeysIn('x'))), ...sqlite.select().from(sqliteKeys).all())
`

const { values, positionals } = parseArgs({
  options: { version: { type: 'string' }, kit: { type: 'string' } },
  allowPositionals: true,
})
const orm = values.version ?? newest('drizzle-orm')
const kit = values.kit ?? values.version ?? newest('drizzle-kit')
const folder = mkdtempSync(join(tmpdir(), 'keystore-drizzle-1-'))
// A test's child process runs as a user with few rights.
chmodSync(folder, 0o755)
let failed = false
try {
  execFileSync(process.execPath, [join(root, 'scripts', 'build.mjs')], { stdio: 'inherit' })
  copyProject()
  console.log(
    `drizzle-orm ${orm}, drizzle-kit ${kit}, Node.js ${process.version}, ${new Date().toISOString().slice(0, 10)}`,
  )
  for (const [file, ...edits] of EDITS) edit(file, edits)
  typecheck()
  for (const dialect of ['sqlite', 'postgres']) generate(dialect)
  run('tests', ['vitest', 'run', '--project', 'together', ...(positionals.length > 0 ? positionals : TESTS)])
} finally {
  rmSync(folder, { recursive: true, force: true })
}
process.exitCode = failed ? 1 : 0

/** The newest 1.x of a package, a release before its candidates. */
function newest(name) {
  const versions = JSON.parse(npm('view', name, 'versions', '--json'))
  const parsed = versions.flatMap((version) => {
    const [, minor, patch, candidate] = /^1\.(\d+)\.(\d+)(?:-rc\.(\d+))?$/.exec(version) ?? []
    return minor === undefined
      ? []
      : [{ version, rank: [+minor, +patch, +(candidate ?? Number.MAX_SAFE_INTEGER)] }]
  })
  const compare = (a, b) => a.rank[0] - b.rank[0] || a.rank[1] - b.rank[1] || a.rank[2] - b.rank[2]
  return parsed.sort(compare).at(-1).version
}

/** Packages are linked, but for those of Drizzle's, which are installed: they must find their drivers beside them. */
function copyProject() {
  for (const name of readdirSync(root)) {
    if (!['node_modules', '.git', 'bench'].includes(name))
      cpSync(join(root, name), join(folder, name), { recursive: true })
  }
  const modules = join(folder, 'node_modules')
  mkdirSync(modules)
  for (const name of readdirSync(join(root, 'node_modules'))) {
    if (!REPLACED.includes(name)) symlinkSync(join(root, 'node_modules', name), join(modules, name))
  }
  const scratch = join(folder, 'scratch')
  mkdirSync(scratch)
  npm(
    'install',
    '--prefix',
    scratch,
    '--no-audit',
    '--no-fund',
    '--legacy-peer-deps',
    '--ignore-scripts',
    `drizzle-orm@${orm}`,
    `drizzle-kit@${kit}`,
  )
  for (const name of REPLACED)
    cpSync(join(scratch, 'node_modules', name), join(modules, name), { recursive: true })
  for (const name of readdirSync(join(scratch, 'node_modules'))) {
    // What drizzle-kit needs, in its own versions.
    const to = join(modules, 'drizzle-kit', 'node_modules', name)
    if (REPLACED.includes(name) || name.startsWith('.')) continue
    cpSync(join(scratch, 'node_modules', name), to, { recursive: true })
  }
  rmSync(scratch, { recursive: true })
}

function edit(file, edits) {
  const path = join(folder, file)
  let text = readFileSync(path, 'utf8')
  for (const [from, to] of edits) {
    if (text.search(from) === -1) throw new Error(`${file} has nothing like ${from}`)
    text = text.replace(from, to)
  }
  writeFileSync(path, text)
}

/** The sources themselves are checked against 0.45, with which dist/ is built. */
function typecheck() {
  mkdirSync(join(folder, 'application'))
  writeFileSync(join(folder, 'application', 'main.ts'), APPLICATION)
  const options = [
    '--module',
    'nodenext',
    '--target',
    'es2022',
    '--strict',
    '--exactOptionalPropertyTypes',
    '--skipLibCheck',
    '--types',
    'node',
    '--ignoreConfig',
  ]
  const tsc = ['tsc', '--noEmit', ...options, join('application', 'main.ts')]
  run('types', tsc)
  // Drizzle's own declarations have errors without the types of all drivers. Ours must have none.
  const [program, ...args] = [join(folder, 'node_modules', '.bin', 'tsc'), ...tsc.slice(1)]
  const { stdout } = spawnSync(program, [...args, '--skipLibCheck', 'false'], {
    cwd: folder,
    encoding: 'utf8',
  })
  const ours = stdout.split('\n').filter((line) => line.startsWith('dist/'))
  console.log(ours.join('\n'))
  report('declarations', stdout.includes('drizzle-orm') && ours.length === 0)
}

/**
 * Brings our migrations into the form of this drizzle-kit, which must then find no difference to the tables. `up` names folders after the
 * second in the journal, which two of ours share; and 1.0 spells conditions and a type in another way.
 */
function generate(dialect) {
  const migrations = join(folder, 'migrations', dialect)
  rewrite(join(migrations, 'meta', '_journal.json'), ({ entries, ...journal }) => ({
    ...journal,
    entries: entries.map((entry, index) => ({
      ...entry,
      when: entry.when - 1000 * (entries.length - index),
    })),
  }))
  const kit = (command) =>
    spawnSync(process.execPath, [join('node_modules', 'drizzle-kit', 'bin.cjs'), command], {
      cwd: folder,
      env: { ...process.env, DIALECT: dialect },
      encoding: 'utf8',
    })
  const up = kit('up')
  for (const name of readdirSync(migrations)) {
    const snapshot = join(migrations, name, 'snapshot.json')
    if (!existsSync(snapshot)) continue
    const text = readFileSync(snapshot, 'utf8')
    writeFileSync(
      snapshot,
      text.replaceAll('\\"encryption_keys\\".', '').replaceAll('timestamp (3)', 'timestamp(3)'),
    )
  }
  const { stdout, stderr } = kit('generate')
  const passed = stdout.includes('No schema changes')
  if (!passed) console.log(up.stdout, up.stderr, stdout, stderr)
  report(`generate, ${dialect}`, passed)
}

function rewrite(path, change) {
  writeFileSync(path, JSON.stringify(change(JSON.parse(readFileSync(path, 'utf8')))))
}

function npm(...args) {
  return execFileSync('npm', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
}

function run(what, [command, ...args]) {
  const program = command === 'node' ? process.execPath : join(folder, 'node_modules', '.bin', command)
  const { status } = spawnSync(program, args, { cwd: folder, stdio: 'inherit' })
  report(what, status === 0)
}

function report(what, passed) {
  console.log(`${what}: ${passed ? 'passed' : 'FAILED'}`)
  if (!passed) failed = true
}
