/** The container's files: linted and read, and their steps run in a folder instead, since a build needs Docker. */
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DockerfileParser } from 'dockerfile-ast'
import { validate } from 'dockerfile-utils'
import { generateMasterKey } from 'drizzle-keystore'
import { describe, expect, it } from 'vitest'
import { parse } from 'yaml'
import { freePort } from '../../../test/support/embedded-postgres.mjs'
import { cleanEnvironment } from './support/application.js'
import { freshDatabase } from './support/databases.js'

const APP = join(import.meta.dirname, '..')
const ROOT = join(APP, '..', '..')
const dockerfile = readFileSync(join(APP, 'Dockerfile'), 'utf8')
const instructions = DockerfileParser.parse(dockerfile).getInstructions()
const argumentsOf = (keyword: string) =>
  instructions.filter((one) => one.getKeyword() === keyword).map((one) => one.getArgumentsContent() ?? '')
/** Of the last stage alone. */
const last = instructions.slice(instructions.findLastIndex((one) => one.getKeyword() === 'FROM'))

interface Service {
  readonly environment: Readonly<Record<string, string>>
  readonly secrets: readonly string[]
  readonly ports?: readonly string[]
  readonly networks: readonly string[]
  readonly command?: readonly string[]
  readonly build?: { readonly context: string; readonly dockerfile: string }
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>
  readonly read_only?: boolean
}
interface Compose {
  readonly services: Readonly<Record<'database' | 'setup' | 'app', Service>>
  readonly secrets: Readonly<Record<string, { readonly file: string }>>
  readonly networks: Readonly<Record<string, { readonly internal?: boolean } | null>>
}
const compose = parse(readFileSync(join(APP, 'compose.yaml'), 'utf8'), { merge: true }) as Compose

describe('the Dockerfile', () => {
  it('passes the linter, which finds what is wrong with a spoilt one', () => {
    expect(validate(dockerfile)).toEqual([])
    expect(validate(dockerfile.replace('USER node', 'USR node'))).not.toEqual([])
  })

  it('ends as an ordinary user who cannot write the program, with a health check, from images with a version', () => {
    const keywords = last.map((one) => one.getKeyword())
    expect(keywords).toEqual(expect.arrayContaining(['USER', 'HEALTHCHECK', 'CMD', 'EXPOSE']))
    expect(argumentsOf('USER')).toEqual(['node'])
    for (const from of argumentsOf('FROM')) expect(from).toMatch(/^node:22-bookworm(-slim)?( AS \w+)?$/)
    for (const copy of last.filter((one) => one.getKeyword() === 'COPY'))
      expect(copy.getArgumentsContent()).not.toContain('chown')
    expect(argumentsOf('ENV').concat(argumentsOf('ARG')).join()).not.toMatch(/secret|password|key|token/i)
  })

  it('is given no secret and no database by its context', () => {
    const ignored = readFileSync(join(APP, 'Dockerfile.dockerignore'), 'utf8').split('\n')
    for (const name of ['.env', 'data', 'keys', 'secrets', '*.key', '*.db', 'node_modules'])
      expect(ignored).toContain(`**/${name}`)
  })
})

describe('compose.yaml', () => {
  const { services, secrets, networks } = compose

  it('keeps every secret in a file of its own, which git ignores', () => {
    const ignored = readFileSync(join(APP, '.gitignore'), 'utf8')
    expect(ignored).toContain('secrets/\n')
    for (const { file } of Object.values(secrets)) expect(file).toMatch(/^secrets\//)
    for (const { environment, secrets: used } of Object.values(services)) {
      for (const name of used) expect(Object.keys(secrets)).toContain(name)
      for (const [name, value] of Object.entries(environment)) {
        if (/secret|password|master_key/i.test(name)) expect(value).toMatch(/^\/run\/secrets\//)
        expect(value).not.toMatch(/:\/\/[^/@]*:[^/@]*@/)
        if (value.startsWith('/run/secrets/')) expect(used).toContain(value.slice('/run/secrets/'.length))
      }
    }
  })

  it('gives the application variables that it knows, and lets nobody but it reach the database', () => {
    const known = readFileSync(join(APP, 'src', 'config.ts'), 'utf8')
    for (const name of Object.keys(services.app.environment))
      if (!name.startsWith('API_KEY_MASTER_KEY')) expect(known).toContain(name.replace(/_FILE$/, ''))
    expect(services.database.networks).toEqual(['inside'])
    expect(services.database.ports).toBeUndefined()
    expect(networks.inside?.internal).toBe(true)
    expect(services.app.ports).toEqual(['127.0.0.1:3000:3000'])
    expect(services.app.read_only).toBe(true)
    expect(services.app.depends_on?.setup?.condition).toBe('service_completed_successfully')
    expect(services.setup.depends_on?.database?.condition).toBe('service_healthy')
    expect(join(APP, services.app.build?.context ?? '', services.app.build?.dockerfile ?? '')).toBe(
      join(APP, 'Dockerfile'),
    )
  })
})

/** Installs packages: a minute. */
const isAsked = Boolean(process.env.CI || process.env.SLOW)
if (!isAsked) console.warn('Skipped: the steps of the Dockerfile, which install packages. SLOW=1 runs them.')

describe.runIf(isAsked)('the steps of the Dockerfile, in a folder', () => {
  it('make an application that an ordinary user runs on Postgres with secrets in files, and that its health check finds well', {
    timeout: 300_000,
  }, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'byok-image-'))
    const database = await freshDatabase('postgres', folder)
    try {
      const app = buildIn(folder)
      const port = await freePort()
      const secretsFolder = join(folder, 'secrets')
      mkdirSync(secretsFolder)
      const url = new URL(database.url)
      const secret = (name: string, value: string) => {
        writeFileSync(join(secretsFolder, name), `${value}\n`)
        return join(secretsFolder, name)
      }
      const DATABASE_PASSWORD_FILE = secret('database_password', decodeURIComponent(url.password))
      url.password = ''
      const env = {
        ...cleanEnvironment(),
        NODE_ENV: 'production',
        HOST: '0.0.0.0',
        PORT: String(port),
        PUBLIC_URL: `http://127.0.0.1:${port}`,
        DATABASE_URL: url.href,
        DATABASE_PASSWORD_FILE,
        API_KEY_MASTER_KEY_FILE: secret('master_key', generateMasterKey()),
        BETTER_AUTH_SECRET_FILE: secret('auth_secret', randomBytes(32).toString('hex')),
        OPERATOR_USER_ID: '',
        MAIL_URL: '',
        TRUST_PROXY: '',
      }
      const options = { cwd: app, env, ...ordinaryUser() }
      execFileSync('node', (compose.services.setup.command ?? []).slice(1), { ...options, stdio: 'pipe' })
      expect(existsSync(join(app, '.env'))).toBe(false)
      const server = spawn('node', (compose.services.app.command ?? []).slice(1), {
        ...options,
        stdio: 'ignore',
      })
      try {
        const check = JSON.parse(
          /^(?:--\S+\s+)*(?:\\\s+)?CMD (\[.*\])$/s.exec(argumentsOf('HEALTHCHECK')[0] ?? '')?.[1] ?? '[]',
        )
        const isHealthy = () => spawnSync(check[0], check.slice(1), { env, stdio: 'ignore' }).status === 0
        expect(check.length).toBe(3)
        for (let tries = 0; tries < 60 && !isHealthy(); tries++)
          await new Promise((done) => setTimeout(done, 500))
        expect(isHealthy()).toBe(true)
        const page = await fetch(`http://127.0.0.1:${port}/sign-in`)
        expect(await page.text()).toContain('Sign in')
      } finally {
        const ended = once(server, 'exit')
        server.kill('SIGTERM')
        expect(await ended).toEqual([0, null])
      }
      expect(existsSync(join(app, 'node_modules', 'typescript'))).toBe(false)
    } finally {
      await database.remove()
      rmSync(folder, { recursive: true, force: true })
    }
  })
})

/** Does what the Dockerfile does. @returns the folder that the image has as /app */
function buildIn(folder: string): string {
  chmodSync(folder, 0o755)
  const source = join(folder, 'src')
  const build = join(source, 'examples', 'byok-app')
  const app = join(folder, 'app')
  const npm = (cwd: string, ...args: string[]) =>
    execFileSync('npm', args, { cwd, stdio: 'pipe', encoding: 'utf8' })
  npm(ROOT, 'pack', '--ignore-scripts', '--pack-destination', folder)
  mkdirSync(source)
  const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
  const packed = join(folder, `drizzle-keystore-${version}.tgz`)
  execFileSync('tar', ['-xzf', packed, '-C', source, '--strip-components', '1'])
  const own = [
    'package.json',
    'package-lock.json',
    '.npmrc',
    'tsconfig.json',
    'tsconfig.build.json',
    'src',
    'public',
    'migrations',
  ]
  for (const name of own) cpSync(join(APP, name), join(build, name), { recursive: true })
  // The compiled driver of this machine: to compile it anew takes minutes.
  npm(build, 'ci', '--ignore-scripts')
  const driver = join('node_modules', 'better-sqlite3', 'build')
  cpSync(join(APP, driver), join(build, driver), { recursive: true })
  npm(build, 'run', 'build')
  npm(build, 'prune', '--omit=dev', '--ignore-scripts')
  mkdirSync(app)
  for (const name of ['package.json', 'node_modules', 'migrations', 'public', 'dist'])
    cpSync(join(build, name), join(app, name), { recursive: true })
  return app
}

/** Whom the image's user stands for, where the tests run as root. */
const ordinaryUser = () => (process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {})
