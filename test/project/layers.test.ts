/** scripts/check-layers.mjs finds no violation in src/, and each kind of violation in a changed copy. */
import { execFileSync, spawnSync } from 'node:child_process'
import { appendFileSync, cpSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { describe, expect, it } from 'vitest'
import { temporaryFolder } from '../support/databases.js'
import { root } from '../support/root.js'

const script = join(root, 'scripts', 'check-layers.mjs')

interface Verdict {
  readonly count: number
  readonly problems: readonly string[]
}

interface Layers {
  /** What each wing may import beside itself; '*' is the top. */
  readonly WINGS: Readonly<Record<string, readonly string[]>>
  checkLayers(root: string): Verdict
}

const { checkLayers, WINGS }: Layers = await import(pathToFileURL(script).href)

/** A file of each wing, by the wing's name. */
const FILES: Readonly<Record<string, string>> = {
  '*': 'validate',
  format: 'format/token',
  'master-keys': 'master-keys/keyring',
  'master-keys/kms': 'master-keys/kms/pkcs11',
  keys: 'keys/cache',
  'key-log': 'key-log/entry',
  envelope: 'envelope/scope',
  lifecycle: 'lifecycle/copy',
  drivers: 'drivers/retry',
  adapters: 'adapters/memory',
  'adapters/sqlite': 'adapters/sqlite/store',
  'adapters/postgres': 'adapters/postgres/store',
  'adapters/open': 'adapters/open',
  sources: 'sources/jsonl',
  drizzle: 'drizzle/registry',
  reencrypt: 'reencrypt/tally',
  'reencrypt/legacy': 'reencrypt/legacy/reader',
  integrations: 'integrations/opentelemetry',
  testing: 'testing/subject',
  index: 'index',
  cli: 'cli/status',
}

/** Checks a copy of src/ with `code` at the end of one of its files, which is made if it is missing. */
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

/** Violations: a file, the code added to it, and the complaint. */
const violations: readonly (readonly [name: string, file: string, code: string, complaint: string])[] = [
  [
    'an adapter imports the crypto service',
    'src/adapters/records.ts',
    "import { EnvelopeCrypto } from '../envelope/envelope-crypto.js'",
    'src/adapters/records.ts: imports envelope/envelope-crypto, which adapters may not',
  ],
  [
    'an adapter imports tokens, even if only a type',
    'src/adapters/open.ts',
    "import type { ParsedToken } from '../format/token.js'",
    'src/adapters/open.ts: imports format/token, which adapters/open may not',
  ],
  [
    'an adapter re-exports a master key',
    'src/adapters/sqlite/store.ts',
    "export { localMasterKey } from '../../master-keys/master-key.js'",
    'src/adapters/sqlite/store.ts: imports master-keys/master-key, which adapters/sqlite may not',
  ],
  [
    "one dialect's store imports the other's",
    'src/adapters/postgres/store.ts',
    "import '../sqlite/instant.js'",
    'src/adapters/postgres/store.ts: imports adapters/sqlite/instant, which adapters/postgres may not',
  ],
  [
    'what both dialects share imports one of them',
    'src/adapters/migrator.ts',
    "import './sqlite/migrate.js'",
    'src/adapters/migrator.ts: imports adapters/sqlite/migrate, which adapters may not',
  ],
  [
    'a driver knows the table',
    'src/drivers/retry.ts',
    "import type { KeyRef } from '../table.js'",
    'src/drivers/retry.ts: imports table, which drivers may not',
  ],
  [
    'a source reaches the key stores',
    'src/sources/sql.ts',
    "import type { KeyStore } from '../store.js'",
    'src/sources/sql.ts: imports store, which sources may not',
  ],
  [
    'lifecycle needs an open service',
    'src/lifecycle/copy.ts',
    "import '../envelope/envelope-crypto.js'",
    'src/lifecycle/copy.ts: imports envelope/envelope-crypto, which lifecycle may not',
  ],
  [
    'the core entry offers a source',
    'src/index.ts',
    "export { jsonlSource } from './sources/jsonl.js'",
    'src/index.ts: imports sources/jsonl, which index may not',
  ],
  [
    'a wing imports the entry',
    'src/envelope/rows.ts',
    "import { Secret as Again } from '../index.js'",
    'src/envelope/rows.ts: imports index, which envelope may not',
  ],
  [
    'two files import each other',
    'src/format/formats.ts',
    "import type { Token } from './token.js'",
    '(format/formats → format/token → format/formats)',
  ],
  [
    'the crypto service imports an adapter',
    'src/keys/cache.ts',
    "import type { PostgresKeyStore } from '../adapters/postgres/store.js'",
    'src/keys/cache.ts: imports adapters/postgres/store, which keys may not',
  ],
  [
    'what stands at the top imports a wing',
    'src/validate.ts',
    "import { isEncrypted } from './format/token.js'",
    'src/validate.ts: imports format/token, which the top may not',
  ],
  [
    'a format imports the service, by import()',
    'src/format/token.ts',
    "export const later = () => import('../envelope/envelope-crypto.js')",
    'src/format/token.ts: imports envelope/envelope-crypto, which format may not',
  ],
  [
    'the contract imports the service, by an import type',
    'src/store.ts',
    "export type Later = import('./keys/cache.js').DataKeys",
    'src/store.ts: imports keys/cache, which the top may not',
  ],
  [
    'the conformance suites import an adapter',
    'src/testing/index.ts',
    "import { memoryKeyStore } from '../adapters/memory.js'",
    'src/testing/index.ts: imports adapters/memory, which testing may not',
  ],
  [
    'something imports the command line',
    'src/adapters/open.ts',
    "import '../cli/main.js'",
    'src/adapters/open.ts: imports cli/main, which adapters/open may not',
  ],
  [
    'a second file imports node:crypto',
    'src/format/token.ts',
    "import { randomBytes } from 'node:crypto'",
    'src/format/token.ts: imports node:crypto: only src/format/aead.ts and src/reencrypt/legacy/ciphers.ts do',
  ],
  [
    'a file imports crypto under its old name',
    'src/adapters/memory.ts',
    "import crypto from 'crypto'",
    'src/adapters/memory.ts: imports crypto: only src/format/aead.ts and src/reencrypt/legacy/ciphers.ts do',
  ],
  [
    'a file uses the global crypto',
    'src/adapters/memory.ts',
    'export const id = () => crypto.randomUUID()',
    'src/adapters/memory.ts: uses the global crypto',
  ],
  [
    'a file uses the global crypto by its full name',
    'src/keys/cache.ts',
    'export const subtle = () => globalThis.crypto.subtle',
    'src/keys/cache.ts: uses the global crypto',
  ],
  [
    'the conformance suites import a test runner',
    'src/testing/index.ts',
    "import { it } from 'vitest'",
    'src/testing/index.ts: imports the package vitest, which testing may not',
  ],
  [
    'a format imports a package',
    'src/format/token.ts',
    "import { LRUCache } from 'lru-cache'",
    'src/format/token.ts: imports the package lru-cache, which format may not',
  ],
  [
    'a source imports the command line’s parser, a subpath of it, or Node’s loader',
    'src/sources/sql.ts',
    "import 'commander'\nimport 'commander/esm.mjs'\nimport 'node:module'",
    [
      'src/sources/sql.ts: imports the package commander, which sources may not',
      'src/sources/sql.ts: imports the package commander/esm.mjs, which sources may not',
      'src/sources/sql.ts: imports the package node:module, which sources may not',
    ].join('\n'),
  ],
  [
    'a package is required',
    'src/envelope/rows.ts',
    "export const pg = () => require('pg')",
    'src/envelope/rows.ts: has require, which loads what cannot be checked',
  ],
  [
    'a module of Node’s is loaded past import',
    'src/envelope/rows.ts',
    "export const load = () => process.getBuiltinModule('crypto')",
    'src/envelope/rows.ts: has getBuiltinModule, which loads what cannot be checked',
  ],
  [
    'the core reaches drizzle through another file',
    'src/master-keys/master-key.ts',
    "import type { SQL } from 'drizzle-orm'",
    /* the road is named */ '→ master-keys/master-key → drizzle-orm)',
  ],
  [
    'the core reaches a driver',
    'src/format/aead.ts',
    "import Database from 'better-sqlite3'",
    'src/index.ts: reaches better-sqlite3',
  ],
  [
    'the SQLite store reaches pg through what both share',
    'src/drivers/retry.ts',
    "import type pg from 'pg'",
    'src/adapters/sqlite/store.ts: reaches pg (',
  ],
  [
    "the SQLite store reaches drizzle's part for Postgres",
    'src/adapters/sqlite/instant.ts',
    "import { pgTable } from 'drizzle-orm/pg-core'",
    'src/adapters/sqlite/store.ts: reaches drizzle-orm/pg-core (',
  ],
  [
    'the Postgres store reaches better-sqlite3 through what both share',
    'src/adapters/records.ts',
    "import Database from 'better-sqlite3'",
    'src/adapters/postgres/store.ts: reaches better-sqlite3 (',
  ],
  [
    'choosing a store by URL loads a driver before it is named',
    'src/adapters/open.ts',
    "import { sqliteKeyStore as eager } from './sqlite/store.js'",
    'src/adapters/open.ts: reaches drizzle-orm (',
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
  ['a file of no wing', 'src/unplaced.ts', 'export {}', 'src/unplaced.ts: belongs to no wing'],
  ['a folder of no wing', 'src/kms/vault.ts', 'export {}', 'src/kms/vault.ts: belongs to no wing'],
  [
    'an import that cannot be checked',
    'src/format/token.ts',
    'export const load = (name: string) => import(name)',
    'src/format/token.ts: imports something computed',
  ],
  [
    'an import of a file outside src',
    'src/format/token.ts',
    "import '../../test/support/databases.js'",
    'src/format/token.ts: imports ../../test/support/databases.js, which is no file of src/',
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

  it('have a rule for each wing, and each is violated by an import of any wing that it does not name', () => {
    expect(Object.keys(WINGS).sort()).toEqual(Object.keys(FILES).sort())
    for (const [wing, allowed] of Object.entries(WINGS)) {
      const isAllowed = (other: string) => other === wing || allowed.includes(other)
      const forbidden = Object.keys(FILES).filter((other) => other !== '*' && !isAllowed(other))
      const file = `src/${FILES[wing]}.ts`
      const up = '../'.repeat(file.split('/').length - 2) || './'
      const code = forbidden.map((other) => `import '${up}${FILES[other]}.js'`)
      const { problems } = checkWith(file, code.join('\n'))
      const named = wing === '*' ? 'the top' : wing
      for (const other of forbidden)
        expect(problems).toContain(`${file}: imports ${FILES[other]}, which ${named} may not`)
    }
  })

  it('are not violated by await in functions, by comments or by strings', () => {
    const { problems } = checkWith(
      'src/format/token.ts',
      [
        "// import '../adapters/sqlite/store.js'",
        'export const text = "import \'node:crypto\'"',
        "export const template = `export * from './cli/main.js' await 1`",
        'export const waits = async () => await 1',
        'export class Waits { async wait() { for await (const x of []) await x } }',
      ].join('\n'),
    )
    expect(problems).toEqual([])
  })

  it('need every entry; the script names what is wrong and fails', () => {
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
