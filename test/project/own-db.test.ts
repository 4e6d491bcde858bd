/** The table of docs/DATABASES.md: each row is compiled under strict, and those are run whose driver runs here. */
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cleanEnvironment, runKeystore } from '../support/command.js'
import { itIf } from '../support/conditional.js'
import { type FreshDatabase, freshDatabase, isChosen, temporaryFolder } from '../support/databases.js'
import { codeBlocks } from '../support/documents.js'
import { hostProject, linkPackage, linkPackages } from '../support/host-project.js'

const [example = ''] = codeBlocks(readFileSync('README.md', 'utf8'), 'ts')
const page = readFileSync('docs/DATABASES.md', 'utf8')

interface Row {
  readonly name: string
  readonly packages: readonly string[]
  /** The README's first example with the lines of the row. */
  readonly code: string
}

const code = (cell = '') => [...cell.matchAll(/`([^`]+)`/g)].map(([, text = '']) => text)

const rows = page
  .slice(page.indexOf('## Your own db'), page.indexOf('## Migrations'))
  .split('\n')
  .filter((line) => line.startsWith('| ') && line.includes('KeyStore({'))
  .map((line): Row => {
    const [, name = '', packages, load, db, store] = line.split(/ *\| */)
    const [factory = '', dialect = ''] = /^`((sqlite|postgres)KeyStore)/.exec(store ?? '')?.slice(1) ?? []
    const own = example
      .replace(
        /^import { sqliteKeyStore }.*$/m,
        `import { ${factory} } from 'drizzle-keystore/${dialect}'\n${code(load)}`,
      )
      .replace(/^const store = .*$/m, `${code(db)}\nconst store = ${code(store)}`)
    return { name: name.replace(/[ ,(].*/, ''), packages: code(packages), code: own }
  })

/** Optional peers that no row needs. */
const KEY_SERVICES = [
  '@aws-sdk/client-kms',
  '@azure/identity',
  '@azure/keyvault-keys',
  '@google-cloud/kms',
  'pkcs11js',
]

/** Of readers of other libraries' values, and of whoever wants lists to be fast. */
const OTHERS = ['@noble/ciphers', '@drizzle-keystore/native']

/** What the page takes from the reader, or from a runtime whose types are not installed here. */
const READERS_OWN = {
  'own.d.ts': `
    declare const url: string
    declare const env: { readonly DB: import('drizzle-keystore/sqlite').AsyncSqliteSource['db']['$client'] }
    interface Rows {
      all(...params: unknown[]): unknown[]
      get(...params: unknown[]): unknown
    }
    declare module 'node:sqlite' {
      interface Statement extends Rows {
        run(...params: unknown[]): { changes: number | bigint }
        iterate(...params: unknown[]): Iterator<unknown>
        setReadBigInts(enabled: boolean): void
      }
      class DatabaseSync {
        constructor(path: string)
        prepare(sql: string): Statement
        exec(sql: string): void
        close(): void
      }
    }
    declare module 'bun:sqlite' {
      interface Statement extends Rows {
        readonly columnNames: string[]
        run(...params: unknown[]): { changes: number }
        values(...params: unknown[]): unknown[]
      }
      class Database {
        constructor(path: string)
        readonly inTransaction: boolean
        prepare(sql: string): Statement
        exec(sql: string): unknown
        fileControl(op: number, value?: unknown): number
        close(): void
      }
    }`,
}

describe('with your own db', () => {
  let folder: ReturnType<typeof temporaryFolder>
  let postgres: FreshDatabase | null = null
  let key: string
  beforeAll(async () => {
    folder = temporaryFolder()
    postgres = isChosen('postgres') ? await freshDatabase('postgres') : null
    linkPackages(folder.path, 'drizzle-orm')
    // As the page says it.
    expect(page).toContain('`npx keystore new-master-key`')
    key = runKeystore(folder.path, ['new-master-key']).stdout.trim()
  })
  afterAll(async () => {
    await postgres?.remove()
    folder.remove()
  })

  it('there are the databases that the stores take, and their drivers are optional peers', () => {
    expect(rows.map(({ name }) => name)).toEqual([
      'better-sqlite3',
      'libsql',
      'node:sqlite',
      'bun:sqlite',
      'Cloudflare',
      'node-postgres',
      'postgres-js',
      'PGlite',
      'Neon',
    ])
    const { peerDependenciesMeta } = JSON.parse(readFileSync('package.json', 'utf8'))
    const drivers = rows.flatMap(({ packages }) => packages)
    expect([...drivers, ...KEY_SERVICES, ...OTHERS, 'drizzle-orm'].sort()).toEqual(
      [...Object.keys(peerDependenciesMeta), 'drizzle-orm'].sort(),
    )
  })

  it('each compiles under strict', () => {
    const files = rows.map(({ code }, index) => [
      `row-${index}.ts`,
      `/// <reference path="own.d.ts" />\n${code}`,
    ])
    const drivers = rows.flatMap(({ packages }) => packages)
    hostProject({ ...READERS_OWN, ...Object.fromEntries(files) }, { drivers }).remove()
  })

  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  const hasNodeSqlite = major > 22 || (major === 22 && minor >= 16)
  const RUN: Readonly<Record<string, string | null>> = {
    'better-sqlite3': null,
    libsql: null,
    'node:sqlite': hasNodeSqlite ? null : 'this Node.js has no node:sqlite as it is needed',
    'node-postgres': isChosen('postgres') ? null : 'Postgres is not chosen',
    'postgres-js': isChosen('postgres') ? null : 'Postgres is not chosen',
    PGlite: null,
  }
  for (const [name, reason] of Object.entries(RUN)) {
    itIf(reason === null, reason ?? '')(`from an install to a decrypted secret on ${name}`, () => {
      const row = rows.find((each) => each.name === name)
      for (const driver of row?.packages ?? []) linkPackage(folder.path, driver)
      const file = `${name.replace(':', '-')}.mjs`
      // Nobody but the application closes its db: without an end the process would wait for it.
      const script = `const url = process.env.DATABASE_URL\n${row?.code}\nconsole.log(token.slice(0, 3), apiKey)\nprocess.exit()\n`
      writeFileSync(join(folder.path, file), script)
      const { stdout, stderr, status } = spawnSync(process.execPath, [file], {
        cwd: folder.path,
        env: cleanEnvironment({ DATABASE_URL: postgres?.url ?? '', API_KEY_MASTER_KEY: key }),
        encoding: 'utf8',
      })
      expect({ status, stdout, stderr: status === 0 ? '' : stderr }).toEqual({
        status: 0,
        stdout: 'v3: sk-proj-…\n',
        stderr: '',
      })
    })
  }
})
