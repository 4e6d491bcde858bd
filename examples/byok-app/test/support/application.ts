/** The application as it is run: set up in a folder of its own, started as a process, with all that it logs. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { generateMasterKey } from 'drizzle-keystore'
import { freePort } from '../../../../test/support/embedded-postgres.mjs'
import { type Dialect, freshDatabase, type TestDatabase } from './databases.js'

export const DIST = join(import.meta.dirname, '..', '..', 'dist')
export const LIBRARY = join(import.meta.dirname, '..', '..', 'node_modules', 'drizzle-keystore')

export interface TestApplication {
  readonly origin: string
  readonly folder: string
  readonly database: TestDatabase
  /** An earlier master key, which the application has as a previous one. */
  readonly previousMasterKey: string
  /** Everything that it has printed. */
  readonly log: () => string
  /** The links in the mails to an address, newest last. */
  linksTo(address: string): string[]
  /** Ends the process, and starts another one with these variables too. */
  restart(env?: Readonly<Record<string, string>>): Promise<void>
  remove(): Promise<void>
}

export async function startApplication(
  dialect: Dialect,
  given: Readonly<Record<string, string>> = {},
): Promise<TestApplication> {
  const folder = mkdtempSync(join(tmpdir(), 'byok-app-'))
  const database = await freshDatabase(dialect, folder)
  const port = await freePort()
  const origin = `http://127.0.0.1:${port}`
  const previousMasterKey = generateMasterKey()
  const env = {
    ...cleanEnvironment(),
    DATABASE_URL: database.url,
    PORT: String(port),
    PUBLIC_URL: origin,
    // Each client of a test has an address of its own, so that they do not share a rate limit.
    TRUST_PROXY: 'true',
    API_KEY_MASTER_KEY_PREVIOUS: previousMasterKey,
    ...given,
  }
  execFileSync(process.execPath, [join(DIST, 'setup.js')], { cwd: folder, env, stdio: 'pipe' })

  let log = ''
  let server = await started(env)

  async function started(environment: NodeJS.ProcessEnv) {
    const child = spawn(process.execPath, [join(DIST, 'server.js')], {
      cwd: folder,
      env: environment,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const begins = log.length
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (text: string) => {
        log += text
      })
    while (!log.slice(begins).includes(' started ')) {
      if (child.exitCode !== null) throw new Error(`The application ended:\n${log.slice(begins)}`)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    return child
  }
  async function stop() {
    if (server.exitCode !== null) return
    const ended = once(server, 'exit')
    server.kill('SIGTERM')
    await ended
  }
  return {
    origin,
    folder,
    database,
    previousMasterKey,
    log: () => log,
    linksTo(address) {
      const outbox = join(folder, 'data', 'outbox')
      const mails = readdirSync(outbox).sort()
      return mails
        .map((name) => readFileSync(join(outbox, name), 'utf8'))
        .filter((mail) => mail.includes(`To: ${address}\n`))
        .flatMap((mail) => mail.match(/https?:\/\/\S+/) ?? [])
    },
    async restart(more = {}) {
      await stop()
      server = await started({ ...env, ...more })
    },
    async remove() {
      await stop()
      await database.remove()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

/** What the tests' own environment says of keys and databases must not reach the application. */
export function cleanEnvironment(): NodeJS.ProcessEnv {
  const own = /^(PATH|HOME|TMPDIR|LANG|NODE_OPTIONS)$/
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => own.test(name)))
}
