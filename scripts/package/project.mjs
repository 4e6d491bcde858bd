// Empty projects in which the packed package is installed, and what runs in them.
import { execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import pg from 'pg'

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
export const PACKAGE = 'drizzle-keystore'

const TIME_LIMIT_MS = 5 * 60_000
/** Of an npm install, which is tried once more: a registry that gives no answer holds it up for ever. */
const INSTALL_LIMIT_MS = 90_000

/** The version of one of our own devDependencies, so that projects have what the tests have. */
function ownVersion(name) {
  return JSON.parse(readFileSync(join(root, 'node_modules', name, 'package.json'), 'utf8')).version
}

/** What the package needs on a dialect, as `npm install` takes it. */
export const DRIVERS = {
  sqlite: [`drizzle-orm@${ownVersion('drizzle-orm')}`, `better-sqlite3@${ownVersion('better-sqlite3')}`],
  postgres: [`drizzle-orm@${ownVersion('drizzle-orm')}`, `pg@${ownVersion('pg')}`],
}

export class Project {
  #postgresUrl

  /** @param context what a further project of the same row is made of */
  constructor(context) {
    this.context = context
    const { tarball, postgresUrl } = context
    /** The packed package, as `npm install` takes it. */
    this.tarballSpec = `file:${tarball}`
    this.#postgresUrl = postgresUrl
    this.path = mkdtempSync(join(tmpdir(), 'keystore-project-'))
    this.write('package.json', JSON.stringify({ name: 'application', private: true, type: 'module' }))
  }

  write(file, text) {
    mkdirSync(dirname(join(this.path, file)), { recursive: true })
    writeFileSync(join(this.path, file), text)
  }

  /** Installs the packed package, and packages of the registry. */
  install(...packages) {
    this.#npm('install', this.tarballSpec, ...packages)
    this.addBinary()
  }

  /** Install scripts do not run: better-sqlite3's would download its binary or compile it for minutes. Its copy is the one that we have. */
  addBinary(to = join(this.path, 'node_modules', 'better-sqlite3')) {
    if (!existsSync(to)) return
    cpSync(join(root, 'node_modules', 'better-sqlite3', 'build'), join(to, 'build'), { recursive: true })
  }

  #npm(command, ...args) {
    const flags = ['--prefer-offline', '--no-audit', '--no-fund', '--ignore-scripts', '--loglevel=error']
    const install = (timeout) => this.run('npm', [command, ...flags, ...args], {}, timeout)
    try {
      install(INSTALL_LIMIT_MS)
    } catch {
      install(TIME_LIMIT_MS)
    }
  }

  /** The program of an installed package. */
  bin(name) {
    return join(this.path, 'node_modules', '.bin', name)
  }

  /** `name version` of an installed package. */
  version(name) {
    const file = join(this.path, 'node_modules', name, 'package.json')
    return `${name} ${JSON.parse(readFileSync(file, 'utf8')).version}`
  }

  /** @returns what the program printed @throws Error with its output unless it ends with 0 */
  run(program, args, env = {}, timeout = TIME_LIMIT_MS) {
    try {
      return execFileSync(program, args, {
        cwd: this.path,
        env: { ...process.env, ...env },
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'pipe'],
        timeout,
        killSignal: 'SIGKILL',
        maxBuffer: 64 * 2 ** 20,
      })
    } catch (error) {
      const { signal, status, stdout = '', stderr = error.message } = error
      const ended = signal ? `was ended by ${signal}` : `ended with ${status}`
      throw new Error(`${program} ${args.join(' ')} ${ended}\n${stdout}${stderr}`)
    }
  }

  /** Runs a program, made of {@link program}, on a fresh store. @throws Error unless it migrated, encrypted and decrypted */
  async check(dialect, command, env = {}) {
    const [program, ...args] = command
    const output = this.run(program, args, { ...(await this.storeEnvironment(dialect)), ...env })
    assertWorked(output)
  }

  /** A fresh store and a master key, as {@link program} takes them. */
  async storeEnvironment(dialect) {
    return {
      API_KEY_MASTER_KEY: randomBytes(32).toString('base64'),
      STORE: dialect === 'sqlite' ? join(this.path, `${name()}.db`) : await this.#freshDatabase(),
    }
  }

  async #freshDatabase() {
    const database = name()
    const client = new pg.Client(this.#postgresUrl)
    await client.connect()
    await client.query(`create database ${database}`)
    await client.end()
    const url = new URL(this.#postgresUrl)
    url.pathname = `/${database}`
    return url.href
  }

  /** Starts a server, asks it once, and ends it. @returns the body of the answer */
  async ask(program, args, { port, path, env }) {
    const child = spawn(program, args, {
      cwd: this.path,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
    let output = ''
    for (const stream of [child.stdout, child.stderr])
      stream.on('data', (chunk) => {
        output += chunk
      })
    try {
      const response = await answer(`http://127.0.0.1:${port}${path}`, child)
      if (response === null) throw new Error(output)
      const body = await response.text()
      if (!response.ok) throw new Error(`${response.status} ${body.slice(0, 500)}\n${output}`)
      return body
    } finally {
      // Its children are of its process group.
      if (child.exitCode === null) process.kill(-child.pid, 'SIGKILL')
    }
  }

  remove() {
    rmSync(this.path, { recursive: true, force: true, maxRetries: 3 })
  }
}

function name() {
  return `project_${randomBytes(6).toString('hex')}`
}

/** @returns null if there is none within a minute */
async function answer(url, child) {
  for (let attempt = 0; attempt < 240 && child.exitCode === null; attempt++) {
    try {
      return await fetch(url)
    } catch {
      await sleep(250)
    }
  }
  return null
}

/** @param output the last line is what {@link program} prints */
export function assertWorked(output) {
  const last = output.trim().split('\n').at(-1)
  const { secret, applied } = JSON.parse(last.startsWith('{') ? last : '{}')
  if (secret !== 'sk-1' || !(applied > 0)) throw new Error(`It printed:\n${output}`)
}

/** How each entry opens the store that $STORE names. */
const OPENING = {
  sqlite: ['sqliteKeyStore', 'sqlite', 'sqliteKeyStore({ path: process.env.STORE })'],
  postgres: ['postgresKeyStore', 'postgres', 'postgresKeyStore({ url: process.env.STORE })'],
  open: ['openKeyStore', 'open', 'await openKeyStore(process.env.STORE)'],
}

/**
 * An application: it opens a store, which migrates it, encrypts and decrypts, and prints what came out as JSON.
 *
 * @param entry sqlite, postgres or open
 * @param form module, commonjs, or handler, which is the body of a function that returns what it would print
 */
export function program(entry, form = 'module') {
  const [factory, path, opening] = OPENING[entry]
  const names = { [PACKAGE]: 'EnvelopeCrypto, masterKeysFromEnv', [`${PACKAGE}/${path}`]: factory }
  const imports = Object.entries(names).map(([from, imported]) =>
    form === 'commonjs'
      ? `const { ${imported} } = require('${from}')`
      : `import { ${imported} } from '${from}'`,
  )
  const last = form === 'handler' ? 'return result' : 'console.log(JSON.stringify(result))'
  const body = `async function main() {
  const store = ${opening}
  const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKeysFromEnv() })
  const token = await envelope.encrypt('alice', 'sk-1', { provider: 'x' })
  const secret = await envelope.decrypt('alice', token, { provider: 'x' })
  const { applied } = await store.ready()
  await envelope.close()
  const result = { secret, applied: applied.length }
  ${last}
}`
  return `${imports.join('\n')}\n\n${body}\n${form === 'handler' ? '' : 'main()\n'}`
}
