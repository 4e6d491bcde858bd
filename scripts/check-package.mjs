// Checks what would be published: packs it, and uses it as an application does.
//
//   node scripts/check-package.mjs [--root FOLDER] [--into FOLDER]
//
// --root checks another folder than this checkout, as it is built; --into keeps the application, with the packed package
// in its node_modules and our own node_modules linked beside it. Exits with 1 and names each problem.
import { execFileSync, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, posix } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'

/** Everything that may be published. A test, a database, a key file or a note to ourselves matches nothing here. */
const PUBLISHED = [
  /^(package\.json|README\.md|(?:CHANGELOG|SECURITY)\.md|LICENSE)$/,
  /^dist\/([a-z0-9-]+\/)*[a-z0-9-]+\.(js|d\.ts)$/,
  /^migrations\/(sqlite|postgres)\/(\d{4}_[a-z0-9_]+\.sql|meta\/(\d{4}_snapshot|_journal)\.json)$/,
  /^docs\/([A-Za-z0-9-]+\/)*[A-Za-z0-9-]+\.md$/,
  /^docs\/benchmarks\/node-\d+-[a-z-]+\.svg$/,
  /^docs\/pictures\/[a-z-]+\.svg$/,
  /^examples\/([a-z-]+\/)?[a-z-]+\.(ts|jsonc)$/,
  /^examples\/byok-app\/(src|public)\/([a-z-]+\/)*[a-z-]+\.(tsx?|css|js|svg)$/,
  /^examples\/byok-app\/migrations\/(sqlite|postgres)\/(\d{4}_[a-z0-9_]+\.sql|meta\/(\d{4}_snapshot|_journal)\.json)$/,
  /^examples\/byok-app\/(README\.md|package\.json|tsconfig(\.build)?\.json|drizzle\.\w+\.config\.ts|Dockerfile(\.dockerignore)?|compose\.yaml)$/,
]
const REQUIRED = [
  'LICENSE',
  'README.md',
  'package.json',
  'migrations/sqlite/meta/_journal.json',
  'migrations/postgres/meta/_journal.json',
]

const { values } = parseArgs({ options: { root: { type: 'string' }, into: { type: 'string' } } })
const ourRoot = join(dirname(fileURLToPath(import.meta.url)), '..')
const root = values.root ?? ourRoot
if (root === ourRoot)
  execFileSync(process.execPath, [join(root, 'scripts', 'build.mjs')], { stdio: 'inherit' })

const application = values.into ?? mkdtempSync(join(tmpdir(), 'keystore-package-'))
const problems = []
try {
  const pkg = install()
  const manifest = JSON.parse(readFileSync(join(pkg, 'package.json'), 'utf8'))
  const files = readdirSync(pkg, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) =>
      join(entry.parentPath ?? entry.path, entry.name)
        .slice(pkg.length + 1)
        .replaceAll('\\', '/'),
    )
    .sort()
  checkFiles(pkg, files)
  const { messages } = await publint({ pkgDir: pkg, level: 'warning', pack: false })
  for (const message of messages)
    problems.push(`publint: ${formatMessage(message, manifest, { color: false })}`)
  checkEntries(manifest)
  if (problems.length === 0) {
    console.log(`${files.length} files, ${Object.keys(manifest.exports).length} entries: fit to publish.`)
  }
} finally {
  if (values.into === undefined) rmSync(application, { recursive: true, force: true })
}
if (problems.length > 0) {
  console.error(problems.join('\n'))
  process.exitCode = 1
}

/** Packs the package into the application's node_modules. @returns where it is */
function install() {
  const modules = join(application, 'node_modules')
  mkdirSync(modules, { recursive: true })
  const pack = ['pack', '--ignore-scripts', '--json', '--pack-destination', application]
  const packed = execFileSync('npm', pack, {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const [{ filename, name }] = JSON.parse(packed)
  execFileSync('tar', ['-xzf', filename], { cwd: application })
  renameSync(join(application, 'package'), join(modules, name))
  rmSync(join(application, filename))
  writeFileSync(join(application, 'package.json'), '{ "private": true, "type": "module" }\n')
  for (const entry of readdirSync(join(ourRoot, 'node_modules'))) {
    if (entry.startsWith('.') || existsSync(join(modules, entry))) continue
    symlinkSync(join(ourRoot, 'node_modules', entry), join(modules, entry))
  }
  return join(modules, name)
}

function checkFiles(pkg, files) {
  for (const file of files) {
    if (!PUBLISHED.some((pattern) => pattern.test(file))) problems.push(`${file}: must not be published`)
    const text = readFileSync(join(pkg, file), 'utf8')
    if (text.includes(root)) problems.push(`${file}: names a folder of the machine that built it`)
  }
  for (const file of REQUIRED) if (!files.includes(file)) problems.push(`${file}: is missing`)
}

/** Every entry can be imported and required, and both give the same instance. */
function checkEntries({ name, exports }) {
  const entries = Object.keys(exports).map((entry) => posix.join(name, entry))
  const script = `
    import { createRequire } from 'node:module'
    const require = createRequire(import.meta.url)
    for (const entry of ${JSON.stringify(entries)}) {
      try {
        const isJson = entry.endsWith('.json')
        const imported = await (isJson ? import(entry, { with: { type: 'json' } }) : import(entry))
        const required = require(entry)
        for (const key of isJson ? [] : Object.keys({ ...imported, ...required })) {
          if (key === '__esModule' || key === 'module.exports') continue
          if (imported[key] !== required[key]) console.log(entry + ': ' + key + ' differs between import and require')
        }
      } catch (error) {
        console.log(entry + ': ' + (error.code ?? '') + ' ' + error.message)
      }
    }`
  const file = join(application, 'check-entries.mjs')
  writeFileSync(file, script)
  const run = spawnSync(process.execPath, ['--no-warnings', file], { cwd: application, encoding: 'utf8' })
  if (run.status !== 0) problems.push(`the application ended with ${run.status}: ${run.stderr}`)
  problems.push(...run.stdout.split('\n').filter((line) => line !== ''))
}
