// Checks that src/ keeps the layers of ARCHITECTURE.md: which wing may import which, and which packages stay out of which entry.
//
//   node scripts/check-layers.mjs [--root FOLDER]   exits with 1 and names each violation
//
// Type-only imports count too: a declaration file that needs a package is as broken without it as code is.
import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs'
import { dirname, join, posix } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { parseAst } from 'vitest/node'

/** What stands at the top of src/, but for the entry: every wing may use it. */
const TOP = [
  'errors',
  'events',
  'traced-calls',
  'store',
  'table',
  'validate',
  'shred',
  'sync-folder',
  'folders',
  'event-loop',
  'iso-time',
]

/**
 * The wings, and what each may import beside itself: `name` is the folder src/name or the file src/name.ts. A file belongs to the rule
 * that names it most exactly. Arrows go down only: nothing listed here as an import may list its user.
 */
export const WINGS = {
  '*': TOP,
  format: TOP,
  // It names keys in services, and imports a provider when the environment names its service.
  'master-keys': [...TOP, 'format', 'master-keys/kms'],
  // Each provider is an entry of its own, and the core loads none.
  'master-keys/kms': ['errors', 'validate', 'format/aead', 'master-keys/master-key'],
  keys: [...TOP, 'format', 'master-keys'],
  'key-log': TOP,
  envelope: [...TOP, 'format', 'master-keys', 'keys', 'key-log'],
  lifecycle: [...TOP, 'format', 'master-keys', 'key-log'],
  drivers: ['errors'],
  // They keep wrapped keys and never see an open one.
  adapters: ['errors', 'event-loop', 'iso-time', 'store', 'table', 'validate', 'format/aead', 'drivers'],
  'adapters/sqlite': [
    'errors',
    'event-loop',
    'iso-time',
    'store',
    'table',
    'validate',
    'folders',
    'format/aead',
    'drivers',
    'adapters',
  ],
  'adapters/postgres': [
    'errors',
    'iso-time',
    'store',
    'table',
    'validate',
    'format/aead',
    'drivers',
    'adapters',
  ],
  // It chooses the dialect.
  'adapters/open': [
    'errors',
    'store',
    'validate',
    'drivers',
    'adapters',
    'adapters/sqlite',
    'adapters/postgres',
  ],
  // They know where values lie, and no key.
  sources: ['errors', 'event-loop', 'validate', 'sync-folder', 'format', 'drivers'],
  drizzle: [...TOP, 'format', 'envelope', 'sources'],
  reencrypt: [...TOP, 'format', 'envelope', 'lifecycle', 'sources', 'drizzle', 'reencrypt/legacy'],
  // Readers know one foreign form each, and nothing of the sweep.
  'reencrypt/legacy': ['errors', 'validate', 'format', 'sources'],
  // The service inside other libraries, which are taken structurally: no package of theirs is imported, not for types either.
  integrations: [...TOP, 'format', 'envelope', 'reencrypt', 'reencrypt/legacy'],
  testing: ['errors', 'store', 'table', 'master-keys/master-key'],
  index: [...TOP, 'format', 'master-keys', 'keys', 'key-log', 'envelope', 'lifecycle'],
  // The composition root: it may import everything, and nothing may import it.
  cli: [
    ...TOP,
    'format',
    'master-keys',
    'keys',
    'key-log',
    'envelope',
    'lifecycle',
    'drivers',
    'adapters',
    'adapters/open',
    'adapters/sqlite',
    'adapters/postgres',
    'sources',
    'drizzle',
    'reencrypt',
    'reencrypt/legacy',
  ],
}

/** The SDKs of key services. */
const KEY_SERVICES = [
  '@aws-sdk/client-kms',
  '@azure/keyvault-keys',
  '@azure/identity',
  '@google-cloud/kms',
  'pkcs11js',
]

/** The packages that a wing may import, subpaths included. Node's own modules are free to all, but for those below. */
const PACKAGES = {
  'master-keys/kms': KEY_SERVICES,
  keys: ['lru-cache'],
  drivers: ['pg', 'better-sqlite3', 'bun:sqlite', '@libsql/client'],
  'adapters/sqlite': ['drizzle-orm'],
  'adapters/postgres': ['drizzle-orm'],
  drizzle: ['drizzle-orm'],
  'reencrypt/legacy': ['@noble/ciphers'],
  cli: ['commander', 'cli-progress', '@bomb.sh/tab', 'cli-table3', 'better-sqlite3', 'drizzle-orm'],
}

const DRIVERS = [
  'better-sqlite3',
  '@libsql/client',
  'bun:sqlite',
  'node:sqlite',
  'pg',
  'drizzle-orm/better-sqlite3',
  'drizzle-orm/node-postgres',
]

// Packages (a package's subpaths included) that must not be reachable from a file: who uses SQLite never loads pg.
// `dynamic` says whether an `import()` counts as reaching.
const CLOSURES = [
  { from: 'index', dynamic: true, without: ['drizzle-orm', ...DRIVERS] },
  // A key service's SDK is loaded when the environment names the service, or at the provider's first call.
  { from: 'index', dynamic: false, without: KEY_SERVICES },
  ...['aws', 'azure', 'gcp', 'pkcs11', 'vault'].map((name) => ({
    from: `master-keys/kms/${name}`,
    dynamic: false,
    without: KEY_SERVICES,
  })),
  {
    from: 'adapters/sqlite/store',
    dynamic: true,
    without: ['pg', 'drizzle-orm/node-postgres', 'drizzle-orm/pg-core', 'drizzle-orm/better-sqlite3'],
  },
  // It loads a driver only to open a file: the host's db may be on another one, in a runtime that has no files.
  { from: 'adapters/sqlite/store', dynamic: false, without: DRIVERS },
  {
    from: 'adapters/postgres/store',
    dynamic: true,
    without: [
      'better-sqlite3',
      'drizzle-orm/better-sqlite3',
      'drizzle-orm/sqlite-core',
      'drizzle-orm/node-postgres',
      'postgres',
      '@electric-sql/pglite',
      '@neondatabase/serverless',
    ],
  },
  // It loads pg only to make a connection: the host's db may be on another driver.
  { from: 'adapters/postgres/store', dynamic: false, without: ['pg'] },
  { from: 'drizzle/sqlite', dynamic: true, without: [...DRIVERS, 'drizzle-orm/pg-core'] },
  { from: 'drizzle/postgres', dynamic: true, without: [...DRIVERS, 'drizzle-orm/sqlite-core'] },
  { from: 'adapters/memory', dynamic: true, without: ['drizzle-orm', ...DRIVERS] },
  // They load a driver only once a URL has named it.
  { from: 'adapters/open', dynamic: false, without: ['drizzle-orm', ...DRIVERS] },
  { from: 'reencrypt/index', dynamic: false, without: [...DRIVERS, '@noble/ciphers'] },
  { from: 'integrations/better-auth', dynamic: true, without: ['better-auth', 'drizzle-orm', ...DRIVERS] },
  { from: 'integrations/auth-js', dynamic: true, without: ['@auth/core', 'drizzle-orm', ...DRIVERS] },
  { from: 'integrations/hono', dynamic: true, without: ['hono', 'drizzle-orm', ...DRIVERS] },
  { from: 'integrations/opentelemetry', dynamic: true, without: ['drizzle-orm', ...DRIVERS] },
]

const CRYPTO = ['crypto', 'node:crypto']
/** Where cryptography is. The second decrypts what other libraries encrypted, and encrypts nothing. */
const CRYPTO_FILES = ['format/aead', 'reencrypt/legacy/ciphers']
const CRYPTO_PATHS = CRYPTO_FILES.map((name) => `src/${name}.ts`).join(' and ')
/** What loads modules past `import`, so that this script would not see it. */
const HIDDEN_LOADERS = ['require', 'createRequire', 'getBuiltinModule']
// It loads the optional addon, which bundlers are not to look for, and nothing else.
const HIDDEN_LOADER_FILE = 'format/native-addon'
// It imports what a user names on the command line.
const COMPUTED_IMPORT_FILE = 'cli/schema-file'
const TOP_LEVEL_AWAIT = 'has a top-level await, so that require() of the package would fail'

// The parsed files, by name and text: the tests check many copies of our sources that differ in one file.
const parsed = new Map()

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({ options: { root: { type: 'string' } } })
  const { count, problems } = checkLayers(values.root ?? join(dirname(fileURLToPath(import.meta.url)), '..'))
  if (problems.length > 0) {
    console.error(problems.join('\n'))
    process.exitCode = 1
  } else console.log(`${count} files keep their layers.`)
}

/** @returns how many files there are, and what is wrong with them */
export function checkLayers(root) {
  const src = join(root, 'src')
  const files = new Map()
  const problems = []
  const names = readdirSync(src, { recursive: true, encoding: 'utf8' }).map((name) =>
    name.replaceAll('\\', '/'),
  )
  for (const name of names.filter((name) => /\.[cm]?[jt]sx?$/.test(name)).sort()) {
    const text = readFileSync(join(src, name), 'utf8')
    const id = `${name}\0${text}`
    if (!parsed.has(id)) parsed.set(id, read(name, text))
    files.set(name.replace(/\.ts$/, ''), parsed.get(id))
  }
  for (const [file, { imports, faults }] of files) checkFile(file, imports, faults)
  for (const closure of CLOSURES) checkClosure(closure)
  checkCircles()
  return { count: files.size, problems }

  function checkFile(file, imports, faults) {
    for (const fault of faults) problems.push(`src/${file}.ts: ${fault}`)
    const wing = wingOf(file)
    if (wing === undefined) {
      problems.push(`src/${file}.ts: belongs to no wing: place it in scripts/check-layers.mjs`)
      return
    }
    const allowed = [wing === '*' ? [] : wing, ...WINGS[wing]].flat()
    for (const { specifier, target } of imports) {
      if (CRYPTO.includes(specifier) && !CRYPTO_FILES.includes(file)) {
        problems.push(`src/${file}.ts: imports ${specifier}: only ${CRYPTO_PATHS} do`)
      }
      if (target === null) {
        if (!isAllowedPackage(wing, specifier))
          problems.push(
            `src/${file}.ts: imports the package ${specifier}, which ${wing === '*' ? 'the top' : wing} may not`,
          )
        continue
      }
      if (!existsSync(join(src, `${target}.ts`))) {
        problems.push(`src/${file}.ts: imports ${specifier}, which is no file of src/`)
      } else if (!allowed.includes(target) && !allowed.includes(wingOf(target))) {
        problems.push(`src/${file}.ts: imports ${target}, which ${wing === '*' ? 'the top' : wing} may not`)
      }
    }
  }

  function checkClosure({ from, dynamic, without }) {
    if (!files.has(from)) {
      problems.push(`src/${from}.ts: is missing`)
      return
    }
    const roads = new Map([[from, from]])
    for (const [file, road] of roads) {
      for (const { specifier, target, isDynamic } of files.get(file)?.imports ?? []) {
        if (isDynamic && !dynamic) continue
        if (target !== null && !roads.has(target)) roads.set(target, `${road} → ${target}`)
        const banned = without.find((name) => specifier === name || specifier.startsWith(`${name}/`))
        if (banned !== undefined)
          problems.push(`src/${from}.ts: reaches ${specifier} (${road} → ${specifier})`)
      }
    }
  }

  function isAllowedPackage(wing, specifier) {
    if (CRYPTO.includes(specifier)) return true
    if (specifier.startsWith('node:')) return specifier !== 'node:module'
    const packages = PACKAGES[wing] ?? []
    return packages.some((name) => specifier === name || specifier.startsWith(`${name}/`))
  }

  /** @returns the name of the rule, '*' for the top */
  function wingOf(file) {
    if (TOP.includes(file)) return '*'
    for (let name = file; name !== '.'; name = posix.dirname(name))
      if (Object.hasOwn(WINGS, name)) return name
    return undefined
  }

  /** A circle among files, type-only imports included: none of its files can be understood, or moved, without all of them. */
  function checkCircles() {
    const done = new Set()
    const path = []
    const walk = (file) => {
      const at = path.indexOf(file)
      if (at !== -1)
        problems.push(`src/${file}.ts: imports itself (${[...path.slice(at), file].join(' → ')})`)
      if (at !== -1 || done.has(file)) return
      path.push(file)
      for (const { target } of files.get(file)?.imports ?? []) if (target !== null) walk(target)
      path.pop()
      done.add(file)
    }
    for (const file of files.keys()) walk(file)
  }
}

/** @returns what a file imports, and what is wrong in it alone */
function read(name, text) {
  const imports = []
  const faults = []
  const add = (source, isDynamic = false) => {
    const specifier = source?.type === 'Literal' ? source.value : null
    if (typeof specifier !== 'string') {
      if (isDynamic && name === `${COMPUTED_IMPORT_FILE}.ts`) return
      faults.push('imports something computed, which cannot be checked')
      return
    }
    const target = specifier.startsWith('.')
      ? posix.join(posix.dirname(name), specifier).replace(/\.js$/, '')
      : null
    imports.push({ specifier, target, isDynamic })
  }
  let program
  try {
    program = parseAst(text, { lang: 'ts' })
  } catch (error) {
    return { imports, faults: [`cannot be parsed: ${error.message}`] }
  }
  visit(program, false)
  return { imports, faults }

  function visit(node, inFunction) {
    if (Array.isArray(node)) {
      for (const item of node) visit(item, inFunction)
      return
    }
    if (typeof node !== 'object' || node === null || typeof node.type !== 'string') return
    inspect(node, inFunction)
    const inside = inFunction || /Function/.test(node.type)
    for (const value of Object.values(node)) visit(value, inside)
  }

  function inspect(node, inFunction) {
    switch (node.type) {
      case 'Identifier':
        if (HIDDEN_LOADERS.includes(node.name) && name !== `${HIDDEN_LOADER_FILE}.ts`)
          faults.push(`has ${node.name}, which loads what cannot be checked: use import`)
        break
      case 'MemberExpression': {
        const { object, property } = node
        const isGlobal = object.type === 'Identifier' && object.name === 'crypto'
        const isOfGlobalThis =
          object.type === 'Identifier' && object.name === 'globalThis' && property.name === 'crypto'
        if ((isGlobal || isOfGlobalThis) && !CRYPTO_FILES.includes(name.replace(/\.ts$/, '')))
          faults.push(`uses the global crypto: only ${CRYPTO_PATHS} have cryptography`)
        break
      }
      case 'ImportDeclaration':
      case 'TSImportType':
        add(node.source)
        break
      case 'ImportExpression':
        add(node.source, true)
        break
      case 'TSExternalModuleReference':
        add(node.expression)
        break
      case 'ExportNamedDeclaration':
        if (node.source) add(node.source)
        break
      case 'ExportAllDeclaration':
        add(node.source)
        faults.push('has "export *": name what is exported')
        break
      case 'AwaitExpression':
        if (!inFunction) faults.push(TOP_LEVEL_AWAIT)
        break
      case 'ForOfStatement':
        if (node.await && !inFunction) faults.push(TOP_LEVEL_AWAIT)
        break
      case 'VariableDeclaration':
        if (node.kind === 'await using' && !inFunction) faults.push(TOP_LEVEL_AWAIT)
        break
    }
  }
}
