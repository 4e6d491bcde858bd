// Makes dist/ of src/: JavaScript bundled by rolldown, one file for each entry and one for each wing of ARCHITECTURE.md, and declarations
// by tsc, one for each module. Entries share the wings' files, so that there is one KeystoreError and one registry of columns.
//
// Does nothing when dist was made from the same sources, and replaces it in one step otherwise: child processes of a
// test run may be loading it.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, isAbsolute, join, posix, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { rolldown } from 'rolldown'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const dist = join(root, 'dist')
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

/**
 * The files in dist/chunks, with the modules that each has. A module that matches several belongs to the first. A file takes along what its
 * modules import and no file above has, so those that others import must stand first.
 */
const CHUNKS = {
  // The core and key services both know codes of the network.
  shared: /^([a-z-]+|master-keys\/kms\/network-code)$/,
  format: /^format\//,
  // Of key services: their entries load these, the core does not.
  pkcs11: /^master-keys\/kms\/pkcs11-(?!uri$)/,
  kms: /^master-keys\/kms\/(key-service|service-error|crc32c)$/,
  'master-keys': /^master-keys\//,
  keys: /^keys\//,
  'key-log': /^key-log\//,
  lifecycle: /^lifecycle\//,
  // Files of an application's tables load no more of the service than this.
  scope: /^envelope\/(scope|unreadable)$/,
  envelope: /^envelope\//,
  drivers: /^drivers\/(deadline|driver-error|drizzle-db|host-client|retry|sqlite-codes|url)$/,
  'drivers-sqlite': /^drivers\/(.*sqlite.*|libsql)$/,
  'drivers-postgres': /^drivers\//,
  adapters: /^adapters\/(generated\/)?[a-z-]+$/,
  // drizzle-kit loads the tables alone.
  'sqlite-schema': /^adapters\/sqlite\/(schema|instant)$/,
  'postgres-schema': /^adapters\/postgres\/schema$/,
  sqlite: /^adapters\/sqlite\//,
  postgres: /^adapters\/postgres\//,
  columns: /^drizzle\/(encrypted-column|drizzle-table|fingerprint-column)$/,
  sources: /^sources\//,
  // Loads drizzle-orm, which the registry must not.
  'written-row':
    /^drizzle\/(written-row|column-guard|expression-guard|owner-column|fingerprint-rule|query-guard)$/,
  registry: /^drizzle\//,
  'legacy-readers': /^reencrypt\/legacy\//,
  reencrypt: /^reencrypt\//,
  integrations: /^integrations\//,
}

/** The files that package.json names, without their extension: those to import, and all. */
const entries = Object.values(manifest.exports).flatMap(({ default: file }) => (file ? [nameOf(file)] : []))
const inputs = [...new Set([...entries, ...Object.values(manifest.bin).map(nameOf)])]

const stamp = sourceHash()
if (!existsSync(join(dist, '.stamp')) || readFileSync(join(dist, '.stamp'), 'utf8') !== stamp) await build()

async function build() {
  const fresh = `${dist}-${process.pid}`
  try {
    declare(fresh)
    await bundle(fresh)
  } catch (error) {
    rmSync(fresh, { recursive: true, force: true })
    console.error(error.message)
    process.exit(1)
  }
  for (const file of Object.values(manifest.bin)) chmodSync(join(fresh, `${nameOf(file)}.js`), 0o755)
  writeFileSync(join(fresh, '.stamp'), stamp)
  const old = `${dist}-old-${process.pid}`
  if (existsSync(dist)) renameSync(dist, old)
  renameSync(fresh, dist)
  rmSync(old, { recursive: true, force: true })
}

/** Writes the declarations that the entries reach. */
function declare(outDir) {
  const tsc = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin', 'tsc')
  const args = [tsc, '--project', join(root, 'tsconfig.build.json'), '--outDir', outDir]
  const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' })
  if (status !== 0) throw new Error('tsc failed')
  const reached = new Set(entries)
  for (const name of reached) {
    const file = join(outDir, `${name}.d.ts`)
    // The type's default, spelled out by tsc where a type is inferred. TypeScript before 5.7 knows no parameter of it.
    const text = readFileSync(file, 'utf8').replaceAll('Uint8Array<ArrayBufferLike>', 'Uint8Array')
    for (const [, path] of text.matchAll(/(?:from |import\()["'](\.[^"']+)\.js["']/g))
      reached.add(posix.join(posix.dirname(name), path))
    // An application whose tsconfig has no `types`, as is TypeScript 7's default, would know neither Buffer nor node:crypto otherwise.
    writeFileSync(file, entries.includes(name) ? `/// <reference types="node" />\n${text}` : text)
  }
  for (const file of readdirSync(outDir, { recursive: true, encoding: 'utf8' })) {
    if (file.endsWith('.d.ts') && !reached.has(nameOf(file))) rmSync(join(outDir, file))
  }
}

async function bundle(dir) {
  const input = Object.fromEntries(inputs.map((name) => [name, join(root, 'src', `${name}.ts`)]))
  // An entry of our own is no part of a chunk, but for the tables, which the stores use too.
  const alone = new Set(Object.values(input).filter((file) => !/[\\/]schema\.ts$/.test(file)))
  const groups = Object.entries(CHUNKS).map(([name, modules], index) => ({
    name,
    priority: Object.keys(CHUNKS).length - index,
    test: (file) => !alone.has(file) && modules.test(moduleName(file)),
  }))
  const build = await rolldown({
    cwd: root,
    input,
    platform: 'node',
    external: (id) => !id.startsWith('.') && !isAbsolute(id),
    treeshake: { moduleSideEffects: false },
    transform: { target: 'es2023' },
    tsconfig: false,
  })
  const { output } = await build.write({
    dir,
    format: 'esm',
    cleanDir: false,
    entryFileNames: '[name].js',
    chunkFileNames: ({ moduleIds }) =>
      moduleIds.some((file) => moduleName(file).startsWith('cli/')) ? 'cli/[name].js' : 'chunks/[name].js',
    codeSplitting: { groups },
  })
  await build.close()
  refuseCircles(output)
}

/** Two files that import each other may run in an order in which a class does not exist yet. */
function refuseCircles(output) {
  const imports = new Map(output.map((file) => [file.fileName, file.imports ?? []]))
  const visit = (file, path) => {
    if (path.includes(file)) throw new Error(`dist/ has a circle of imports: ${[...path, file].join(' → ')}`)
    for (const next of imports.get(file) ?? []) visit(next, [...path, file])
  }
  for (const file of imports.keys()) visit(file, [])
}

/** `./dist/a/b.js` → `a/b` */
function nameOf(file) {
  return file
    .replaceAll('\\', '/')
    .replace(/^(\.\/)?dist\//, '')
    .replace(/(\.d\.ts|\.js)$/, '')
}

/** `…/src/a/b.ts` → `a/b` */
function moduleName(file) {
  return relative(join(root, 'src'), file).replaceAll('\\', '/').replace(/\.ts$/, '')
}

function sourceHash() {
  const sources = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
  const files = sources.filter((name) => name.endsWith('.ts')).map((name) => join('src', name))
  const others = ['tsconfig.json', 'tsconfig.build.json', 'package.json', join('scripts', 'build.mjs')]
  const hash = createHash('sha256')
  for (const file of [...files, ...others].sort()) {
    hash
      .update(`${file}\0`)
      .update(readFileSync(join(root, file)))
      .update('\0')
  }
  return hash.digest('hex')
}
