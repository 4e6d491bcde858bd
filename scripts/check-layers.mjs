// Checks that src/ keeps the layers of the design: who may import whom, which packages stay out of which entry.
//
//   node scripts/check-layers.mjs [--root FOLDER]   exits with 1 and names each violation
//
// Type-only imports count too: a declaration file that needs a package is as broken without it as code is.
import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs'
import { dirname, join, posix } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { parseAst } from 'vitest/node'

const BASE = ['errors', 'aead', 'table', 'encoding', 'validate', 'sync-folder', 'generated/*']
const MODEL = [
  'store',
  'token',
  'token-policy',
  'master-key',
  'key-wrap',
  'data-key',
  'fingerprint',
  'events',
  'shred',
  'secret',
  'item-result',
  'batch',
  'column-context',
  'value-source',
]
const SERVICE = [
  'key-cache',
  'key-memory',
  'key-rows',
  'user-handle',
  'scope',
  'pool-crypto',
  'master-key-check',
  'envelope-options',
  'envelope-crypto',
]

// What adapters know of the host's tables, without a driver.
const TABLES = ['adapters/host-tables', 'adapters/table-source', 'adapters/sql-table']

// The one table: each file of src/ has exactly one layer, and imports only what its layer names. A new file belongs
// nowhere until it is placed here; whoever places it decides which arrows it may draw. "x/*" is everything in folder x.
const LAYERS = [
  { layer: 'base', files: BASE, imports: BASE },
  { layer: 'model', files: MODEL, imports: [...BASE, ...MODEL] },
  { layer: 'service', files: SERVICE, imports: [...BASE, ...MODEL, ...SERVICE] },
  { layer: 'lifecycle', files: ['lifecycle/*'], imports: [...BASE, ...MODEL, ...SERVICE, 'lifecycle/*'] },
  {
    layer: 'reencrypt',
    files: ['rows', 'reencrypt/*'],
    imports: [...BASE, ...MODEL, ...SERVICE, 'lifecycle/long-work', 'reencrypt/*'],
  },
  {
    // The one integration with the host's tables: encrypted columns, and where they are. Only its dialect files import drizzle.
    layer: 'drizzle',
    files: ['drizzle/*'],
    imports: [...BASE, ...MODEL, ...SERVICE, ...TABLES, 'drizzle/*'],
  },
  {
    layer: 'index',
    files: ['index'],
    imports: [
      ...BASE,
      ...MODEL,
      ...SERVICE,
      'lifecycle/*',
      'rows',
      'reencrypt/*',
      'drizzle/*',
      'adapters/jsonl-source',
    ],
  },
  {
    // Adapters keep wrapped keys and never see an open one: no envelope-crypto, token or master-key here.
    layer: 'adapters',
    files: ['adapters/*', 'migrator'],
    imports: [
      'store',
      'table',
      'errors',
      'aead',
      'encoding',
      'sync-folder',
      'validate',
      'column-context',
      'value-source',
      'generated/*',
      'migrator',
      'adapters/*',
    ],
  },
  {
    layer: 'testing',
    files: ['testing', 'testing/*'],
    imports: ['store', 'errors', 'table', 'testing', 'testing/*'],
  },
  // The composition root: it may import everything, and nothing else may import it.
  {
    layer: 'cli',
    files: ['cli/*'],
    imports: [
      ...BASE,
      ...MODEL,
      ...SERVICE,
      'lifecycle/*',
      'rows',
      'reencrypt/*',
      'drizzle/*',
      'index',
      'adapters/*',
      'migrator',
      'testing',
      'testing/*',
      'cli/*',
    ],
  },
]

// Packages (a package's subpaths included) that must not be reachable from a file: who uses SQLite never loads pg.
// `dynamic` says whether an `import()` counts as reaching.
const CLOSURES = [
  { from: 'index', dynamic: true, without: ['drizzle-orm', 'better-sqlite3', 'pg'] },
  {
    from: 'adapters/sqlite',
    dynamic: true,
    without: ['pg', 'drizzle-orm/node-postgres', 'drizzle-orm/pg-core'],
  },
  {
    from: 'adapters/postgres',
    dynamic: true,
    without: ['better-sqlite3', 'drizzle-orm/better-sqlite3', 'drizzle-orm/sqlite-core'],
  },
  {
    from: 'drizzle/sqlite',
    dynamic: true,
    without: [
      'better-sqlite3',
      'pg',
      'drizzle-orm/better-sqlite3',
      'drizzle-orm/node-postgres',
      'drizzle-orm/pg-core',
    ],
  },
  {
    from: 'drizzle/postgres',
    dynamic: true,
    without: [
      'better-sqlite3',
      'pg',
      'drizzle-orm/better-sqlite3',
      'drizzle-orm/node-postgres',
      'drizzle-orm/sqlite-core',
    ],
  },
  { from: 'adapters/memory', dynamic: true, without: ['drizzle-orm', 'better-sqlite3', 'pg'] },
  // It loads a driver only once a URL has named it.
  { from: 'adapters/open', dynamic: false, without: ['drizzle-orm', 'better-sqlite3', 'pg'] },
]

const CRYPTO = ['crypto', 'node:crypto']
const CRYPTO_FILE = 'aead'
// It imports what a user names on the command line.
const COMPUTED_IMPORT_FILE = 'cli/schema-file'
const TOP_LEVEL_AWAIT = 'has a top-level await, so that require() of the package would fail'

// What files hold, by name and text: the tests check many copies of our sources that differ in one file.
const seen = new Map()

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
    if (!seen.has(id)) seen.set(id, read(name, text))
    files.set(name.replace(/\.ts$/, ''), seen.get(id))
  }
  for (const [file, { imports, faults }] of files) checkFile(file, imports, faults)
  for (const closure of CLOSURES) checkClosure(closure)
  return { count: files.size, problems }

  function checkFile(file, imports, faults) {
    for (const fault of faults) problems.push(`src/${file}.ts: ${fault}`)
    const layers = LAYERS.filter((layer) => matches(file, layer.files))
    if (layers.length !== 1) {
      const found = layers.length === 0 ? 'no layer' : `${layers.length} layers`
      problems.push(`src/${file}.ts: has ${found}: place it in scripts/check-layers.mjs`)
      return
    }
    const [layer] = layers
    for (const { specifier, target } of imports) {
      if (CRYPTO.includes(specifier) && file !== CRYPTO_FILE) {
        problems.push(`src/${file}.ts: imports ${specifier}: only src/${CRYPTO_FILE}.ts does`)
      }
      if (target === null) continue
      if (!existsSync(join(src, `${target}.ts`))) {
        problems.push(`src/${file}.ts: imports ${specifier}, which is no file of src/`)
      } else if (!matches(target, layer.imports)) {
        problems.push(`src/${file}.ts: imports ${target}, which the layer ${layer.layer} may not`)
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

  function matches(file, patterns) {
    return patterns.some((pattern) =>
      pattern.endsWith('/*') ? file.startsWith(pattern.slice(0, -1)) : file === pattern,
    )
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
    look(node, inFunction)
    const inside = inFunction || /Function/.test(node.type)
    for (const value of Object.values(node)) visit(value, inside)
  }

  function look(node, inFunction) {
    switch (node.type) {
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
