/** scripts/check-layers.mjs finds our sources clean, and each kind of violation in a scratch copy of them. */
import { execFileSync, spawnSync } from 'node:child_process'
import { appendFileSync, cpSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { describe, expect, it } from 'vitest'
import { temporaryFolder } from './support/databases.js'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const script = join(root, 'scripts', 'check-layers.mjs')

interface Verdict {
  readonly count: number
  readonly problems: readonly string[]
}

const { checkLayers }: { checkLayers(root: string): Verdict } = await import(pathToFileURL(script).href)

/** Checks a copy of our sources with `code` at the end of one of its files, which is made if it is missing. */
function checkWith(file: string, code: string): Verdict {
  const scratch = temporaryFolder()
  try {
    cpSync(join(root, 'src'), join(scratch.path, 'src'), { recursive: true })
    mkdirSync(dirname(join(scratch.path, file)), { recursive: true })
    appendFileSync(join(scratch.path, file), `\n${code}\n`)
    return checkLayers(scratch.path)
  } finally {
    scratch.remove()
  }
}

/** A file, what is added to it, and the whole complaint. */
const violations: readonly (readonly [name: string, file: string, code: string, complaint: string])[] = [
  [
    'an adapter imports the crypto service',
    'src/adapters/records.ts',
    "import { EnvelopeCrypto } from '../envelope-crypto.js'",
    'src/adapters/records.ts: imports envelope-crypto, which the layer adapters may not',
  ],
  [
    'an adapter imports tokens, even if only a type',
    'src/adapters/open.ts',
    "import type { Format } from '../token.js'",
    'src/adapters/open.ts: imports token, which the layer adapters may not',
  ],
  [
    'an adapter re-exports a master key',
    'src/adapters/sqlite.ts',
    "export { localMasterKey } from '../master-key.js'",
    'src/adapters/sqlite.ts: imports master-key, which the layer adapters may not',
  ],
  [
    'the migrator imports the crypto service',
    'src/migrator.ts',
    "import './key-cache.js'",
    'src/migrator.ts: imports key-cache, which the layer adapters may not',
  ],
  [
    'the crypto service imports an adapter',
    'src/key-cache.ts',
    "import type { PostgresKeyStore } from './adapters/postgres.js'",
    'src/key-cache.ts: imports adapters/postgres, which the layer service may not',
  ],
  [
    'a base file imports upwards',
    'src/encoding.ts',
    "import { isEncrypted } from './token.js'",
    'src/encoding.ts: imports token, which the layer base may not',
  ],
  [
    'the model imports the service, by import()',
    'src/token.ts',
    "export const later = () => import('./envelope-crypto.js')",
    'src/token.ts: imports envelope-crypto, which the layer model may not',
  ],
  [
    'the model imports the service, by an import type',
    'src/store.ts',
    "export type Later = import('./key-cache.js').DataKeys",
    'src/store.ts: imports key-cache, which the layer model may not',
  ],
  [
    'the conformance suites import an adapter',
    'src/testing.ts',
    "import { memoryKeyStore } from './adapters/memory.js'",
    'src/testing.ts: imports adapters/memory, which the layer testing may not',
  ],
  [
    'something imports the command line',
    'src/adapters/open.ts',
    "import '../cli/main.js'",
    'src/adapters/open.ts: imports cli/main, which the layer adapters may not',
  ],
  [
    'a second file imports node:crypto',
    'src/token.ts',
    "import { randomBytes } from 'node:crypto'",
    'src/token.ts: imports node:crypto: only src/aead.ts does',
  ],
  [
    'a file imports crypto under its old name',
    'src/adapters/memory.ts',
    "import crypto from 'crypto'",
    'src/adapters/memory.ts: imports crypto: only src/aead.ts does',
  ],
  [
    'the core reaches drizzle through another file',
    'src/master-key.ts',
    "import type { SQL } from 'drizzle-orm'",
    /* the road is named */ '→ master-key → drizzle-orm)',
  ],
  [
    'the core reaches a driver',
    'src/aead.ts',
    "import Database from 'better-sqlite3'",
    'src/index.ts: reaches better-sqlite3',
  ],
  [
    'the SQLite store reaches pg through what both share',
    'src/adapters/retry.ts',
    "import type pg from 'pg'",
    'src/adapters/sqlite.ts: reaches pg (',
  ],
  [
    "the SQLite store reaches drizzle's part for Postgres",
    'src/adapters/instant-text.ts',
    "import { pgTable } from 'drizzle-orm/pg-core'",
    'src/adapters/sqlite.ts: reaches drizzle-orm/pg-core (',
  ],
  [
    'the Postgres store reaches better-sqlite3 through what both share',
    'src/adapters/records.ts',
    "import Database from 'better-sqlite3'",
    'src/adapters/postgres.ts: reaches better-sqlite3 (',
  ],
  [
    'choosing a store by URL loads a driver before it is named',
    'src/adapters/open.ts',
    "import { sqliteKeyStore as eager } from './sqlite.js'",
    'src/adapters/open.ts: reaches better-sqlite3 (',
  ],
  [
    'a top-level await',
    'src/validate.ts',
    'if (MAX_USER_ID_BYTES > 1) {\n  await 0\n}',
    'src/validate.ts: has a top-level await',
  ],
  [
    'a top-level for await',
    'src/validate.ts',
    'for await (const item of []) console.log(item)',
    'src/validate.ts: has a top-level await',
  ],
  ['export *', 'src/index.ts', "export * from './events.js'", 'src/index.ts: has "export *"'],
  [
    'export * under a name',
    'src/index.ts',
    "export * as events from './events.js'",
    'src/index.ts: has "export *"',
  ],
  ['a file of no layer', 'src/unplaced.ts', 'export {}', 'src/unplaced.ts: has no layer'],
  ['a folder of no layer', 'src/kms/vault.ts', 'export {}', 'src/kms/vault.ts: has no layer'],
  [
    'an import that cannot be checked',
    'src/token.ts',
    'export const load = (name: string) => import(name)',
    'src/token.ts: imports something computed',
  ],
  [
    'an import of a file outside src',
    'src/token.ts',
    "import '../test/support/databases.js'",
    'src/token.ts: imports ../test/support/databases.js, which is no file of src/',
  ],
]

describe('the layers of src', () => {
  it('are kept by our sources', () => {
    expect(execFileSync(process.execPath, [script], { encoding: 'utf8' })).toMatch(
      /^\d+ files keep their layers\.\n$/,
    )
  })

  it.each(violations)('are violated by %s', (_name, file, code, complaint) => {
    expect(checkWith(file, code).problems.join('\n')).toContain(complaint)
  })

  it('are not violated by await in functions, by comments or by strings', () => {
    const { problems } = checkWith(
      'src/token.ts',
      [
        "// import '../adapters/sqlite.js'",
        'export const text = "import \'node:crypto\'"',
        "export const template = `export * from './cli/main.js' await 1`",
        'export const waits = async () => await 1',
        'export class Waits { async wait() { for await (const x of []) await x } }',
      ].join('\n'),
    )
    expect(problems).toEqual([])
  })

  it('need every file of the table that an entry begins with; the script names what is wrong and fails', () => {
    const scratch = temporaryFolder()
    try {
      mkdirSync(join(scratch.path, 'src'))
      writeFileSync(join(scratch.path, 'src', 'errors.ts'), 'export {}\n')
      const { status, stderr } = spawnSync(process.execPath, [script, '--root', scratch.path])
      expect(String(stderr)).toContain('src/index.ts: is missing')
      expect(status).toBe(1)
    } finally {
      scratch.remove()
    }
  })
})
