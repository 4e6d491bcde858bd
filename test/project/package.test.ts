/** What would be published, packed and used in an empty project: entries, names, types, missing and unwanted drivers. */
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { cleanEnvironment } from '../support/command.js'
import { freshDatabase, temporaryFolder } from '../support/databases.js'
import { checkPackage, type Ended, runNode } from '../support/node-script.js'
import { root } from '../support/root.js'

const PACKAGE = 'drizzle-keystore'

/** The public names of the core: a change here is a change of the contract. Types are not seen at run time. */
const CORE_NAMES = [
  'EnvelopeCrypto',
  'KeystoreError',
  'MasterKeyError',
  'Secret',
  'StoreError',
  'apiKeyHash',
  'applyKeyLog',
  'census',
  'copyKeys',
  'cryptoCore',
  'decryptRows',
  'decryptWithKey',
  'derivePoolKey',
  'encryptRows',
  'encryptWithKey',
  'findLostKeys',
  'findTenant',
  'generateMasterKey',
  'isEncrypted',
  'isToken',
  'isUnreadable',
  'listTenants',
  'localMasterKey',
  'loggedStore',
  'masterKeyring',
  'masterKeysFromEnv',
  'masterKeysFromFile',
  'pruneRetired',
  'pruneTenantKey',
  'pruneUnusedTenants',
  'pruneWhere',
  'recordKeys',
  'reseed',
  'resolveMasterKey',
  'rewrapAll',
  'rotateWhere',
  'verifyAll',
]

/** What the entry of the sweep offers. */
const REENCRYPT_NAMES = [
  'aesPartsReader',
  'betterAuthReader',
  'cloakReader',
  'defineEncrypted',
  'drizzleSource',
  'jsonlSource',
  'n8nReader',
  'payloadReader',
  'reencrypt',
  'sqlSource',
]

/** The files that the core entry loads: itself, and one for each of its wings. One more makes every start slower. */
const CORE_FILES = [
  'chunks/envelope.js',
  'chunks/format.js',
  'chunks/key-log.js',
  'chunks/keys.js',
  'chunks/lifecycle.js',
  'chunks/master-keys.js',
  'chunks/scope.js',
  'chunks/shared.js',
  'index.js',
]

let application: ReturnType<typeof temporaryFolder>
let checked: Ended

beforeAll(async () => {
  application = temporaryFolder()
  checked = await checkPackage('--into', application.path)
})
afterAll(() => application.remove())

/** @returns the names that an entry exports, sorted */
async function namesOf(entry: string): Promise<string[]> {
  const code = `import * as entry from '${entry}'; console.log(JSON.stringify(Object.keys(entry).sort()))`
  return JSON.parse((await run('names', code)).output)
}

/** Runs a module in the application. */
function run(name: string, code: string, folder = application.path, ...flags: string[]): Promise<Ended> {
  writeFileSync(join(folder, `${name}.mjs`), code)
  return runNode(folder, '--no-warnings', ...flags, `${name}.mjs`)
}

describe('the packed package', () => {
  it('is fit to publish: files, publint, and one instance whether imported or required', () => {
    expect(checked).toEqual({
      status: 0,
      output: expect.stringMatching(/^\d+ files, \d+ entries: fit to publish\.\n$/),
    })
  })

  it('has the entries of the design, and the core exactly its public names', async () => {
    const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
    expect(Object.keys(manifest.exports)).toEqual(
      expect.arrayContaining([
        '.',
        './sqlite',
        './postgres',
        './memory',
        './open',
        './schema/sqlite',
        './schema/postgres',
        './drizzle/sqlite',
        './drizzle/postgres',
        './reencrypt',
        './kms/aws',
        './kms/azure',
        './kms/gcp',
        './kms/pkcs11',
        './kms/vault',
        './better-auth',
        './auth-js',
        './hono',
        './opentelemetry',
        './testing',
        './package.json',
      ]),
    )
    expect(await namesOf(PACKAGE)).toEqual(CORE_NAMES)
    expect(await namesOf(`${PACKAGE}/reencrypt`)).toEqual(REENCRYPT_NAMES)
    expect(await namesOf(`${PACKAGE}/better-auth`)).toEqual(['betterAuthColumns', 'encryptedAdapter'])
    expect(await namesOf(`${PACKAGE}/auth-js`)).toEqual(['encryptedAdapter'])
    expect(await namesOf(`${PACKAGE}/hono`)).toEqual(['keystoreScope'])
    expect(await namesOf(`${PACKAGE}/opentelemetry`)).toEqual(['instrumentKeystore'])
    for (const service of ['aws', 'azure', 'gcp', 'vault'])
      expect(await namesOf(`${PACKAGE}/kms/${service}`)).toEqual([`${service}MasterKey`])
  })

  it('loads few files for the core entry: no adapter, no source, no driver, no Drizzle', async () => {
    const loads = join(application.path, 'loads.txt')
    const hook = pathToFileURL(join(root, 'test', 'children', 'record-loads.mjs')).href
    const code = `
      import { appendFileSync } from 'node:fs'
      process.env.LOADS = ${JSON.stringify(loads)}
      await import(${JSON.stringify(hook)})
      await import('${PACKAGE}')`
    expect(await run('loads-core', code)).toEqual({ status: 0, output: '' })
    const urls = [...new Set(readFileSync(loads, 'utf8').trim().split('\n'))]
    const installed = urls.filter((url) => url.includes('/node_modules/'))
    const ours = installed.flatMap((url) => url.split(`/node_modules/${PACKAGE}/dist/`)[1] ?? [])
    expect(ours.sort()).toEqual(CORE_FILES)
    expect(installed.filter((url) => !url.includes(`/node_modules/${PACKAGE}/`))).toEqual([
      expect.stringContaining('/node_modules/lru-cache/'),
    ])
  })

  it('has one KeystoreError and one registry for all entries, and no source map', async () => {
    const installed = join(application.path, 'node_modules', PACKAGE)
    const files = readdirSync(join(installed, 'dist'), { recursive: true, encoding: 'utf8' })
    const texts = files
      .filter((name) => name.endsWith('.js'))
      .map((name) => readFileSync(join(installed, 'dist', name), 'utf8'))
    expect(texts.filter((text) => text.includes('class KeystoreError'))).toHaveLength(0)
    expect(texts.filter((text) => /(var|let|const) KeystoreError = class/.test(text))).toHaveLength(1)
    expect(files.filter((name) => name.endsWith('.map'))).toEqual([])
    expect(texts.filter((text) => text.includes('sourceMappingURL'))).toEqual([])
    const code = `
      import { KeystoreError } from '${PACKAGE}'
      import { encryptedText } from '${PACKAGE}/drizzle/sqlite'
      import { openKeyStore } from '${PACKAGE}/open'
      import { postgresKeyStore } from '${PACKAGE}/postgres'
      import { sqlSource } from '${PACKAGE}/reencrypt'
      import { sqliteKeyStore } from '${PACKAGE}/sqlite'
      const wrong = [
        () => encryptedText('name', {}),
        () => openKeyStore(1),
        () => postgresKeyStore(1),
        () => sqlSource(1),
        () => sqliteKeyStore(1),
      ]
      for (const call of wrong) {
        const error = await new Promise((resolve) => resolve(call())).catch((reason) => reason)
        if (!(error instanceof KeystoreError)) console.log(String(call), error)
      }`
    expect(await run('one-class', code)).toEqual({ status: 0, output: '' })
  })

  it('has migrations, licence and README, and its drivers only as optional peers', () => {
    const installed = join(application.path, 'node_modules', PACKAGE)
    expect(readdirSync(installed)).toEqual(
      expect.arrayContaining(['LICENSE', 'README.md', 'dist', 'migrations']),
    )
    const manifest = JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8'))
    expect(Object.keys(manifest.peerDependencies)).toEqual(
      expect.arrayContaining(['better-sqlite3', 'drizzle-orm', 'pg']),
    )
    expect(manifest.peerDependenciesMeta).toMatchObject({
      '@electric-sql/pglite': { optional: true },
      '@neondatabase/serverless': { optional: true },
      'better-sqlite3': { optional: true },
      pg: { optional: true },
      postgres: { optional: true },
    })
    expect(Object.keys(manifest.dependencies ?? {})).not.toContain('pg')
  })

  it('never loads pg for who uses SQLite, nor better-sqlite3 for who uses Postgres', async () => {
    const loaded = (makeStore: string) => `
      import { createRequire } from 'node:module'
      ${makeStore}
      await store.census()
      await store.close()
      const files = Object.keys(createRequire(import.meta.url).cache)
      const names = files.map((file) => /.*node_modules.((?:@[^/\\\\]+.)?[^/\\\\]+)/.exec(file)?.[1])
      console.log(JSON.stringify(['better-sqlite3', 'pg'].filter((name) => names.includes(name))))`
    const open = (url: string) =>
      loaded(`
      import { openKeyStore } from '${PACKAGE}/open'
      const store = await openKeyStore(${JSON.stringify(url)})`)
    const database = await freshDatabase('postgres')
    try {
      expect(await run('loads-sqlite', open(':memory:'))).toEqual({
        status: 0,
        output: '["better-sqlite3"]\n',
      })
      expect(await run('loads-postgres', open(database.url))).toEqual({ status: 0, output: '["pg"]\n' })
    } finally {
      await database.remove()
    }
  })
})

describe('without a driver', () => {
  /** A second application, which has everything but some packages, and follows no link out of itself. */
  async function runWithout(missing: readonly string[], code: string): Promise<Ended> {
    const folder = temporaryFolder()
    try {
      // Its name must not be taken for the name of a package that is missing.
      const home = join(folder.path, 'my-drizzle-orm-app')
      const modules = join(home, 'node_modules')
      mkdirSync(modules, { recursive: true })
      cpSync(join(application.path, 'node_modules', PACKAGE), join(modules, PACKAGE), { recursive: true })
      for (const name of readdirSync(join(root, 'node_modules'))) {
        if (name.startsWith('.') || missing.includes(name)) continue
        symlinkSync(join(root, 'node_modules', name), join(modules, name))
      }
      return await run('main', code, home, '--preserve-symlinks', '--preserve-symlinks-main')
    } finally {
      folder.remove()
    }
  }
  const open = (url: string) => `
    import { openKeyStore } from '${PACKAGE}/open'
    const error = await openKeyStore('${url}').then((store) => store.close(), (reason) => reason)
    console.log(error === undefined ? 'opened' : error.code + ' ' + error.retryable + ' ' + error.message)`

  it.each([
    [['better-sqlite3', '@libsql'], ':memory:'],
    [['pg'], 'postgres://u:hidden@127.0.0.1:1/x'],
    [['drizzle-orm'], ':memory:'],
    [['drizzle-orm'], 'postgres://u:hidden@127.0.0.1:1/x'],
  ])('%s: openKeyStore says what to install', async (missing, url) => {
    const { output } = await runWithout(missing, open(url))
    expect(output).toMatch(/^ERR_STORE false /)
    expect(output).toMatch(new RegExp(`: npm install ${missing[0]}(, or .* npm install @libsql/client)?\\n$`))
    expect(output).not.toContain('hidden')
  })

  it('SQLite works without pg, and the core without any', async () => {
    expect(await runWithout(['pg'], open(':memory:'))).toEqual({ status: 0, output: 'opened\n' })
    const core = `
      import { EnvelopeCrypto, generateMasterKey, localMasterKey } from '${PACKAGE}'
      import { memoryKeyStore } from '${PACKAGE}/memory'
      import '${PACKAGE}/open'
      import '${PACKAGE}/testing'
      const masterKeys = localMasterKey(generateMasterKey())
      const envelope = await EnvelopeCrypto.open({ store: memoryKeyStore(), masterKeys })
      console.log(await envelope.decrypt('a', await envelope.encrypt('a', 'works')))`
    expect(await runWithout(['pg', 'better-sqlite3', 'drizzle-orm'], core)).toEqual({
      status: 0,
      output: 'works\n',
    })
  })
})

describe('the command of the packed package', () => {
  const inApplication = (command: string, ...args: string[]) =>
    execFileSync(command, args, { cwd: application.path, env: cleanEnvironment(), encoding: 'utf8' })

  /** As `npm install` does. */
  function linkCommand(): void {
    const modules = join(application.path, 'node_modules')
    const { bin } = JSON.parse(readFileSync(join(modules, PACKAGE, 'package.json'), 'utf8'))
    mkdirSync(join(modules, '.bin'))
    for (const [name, file] of Object.entries<string>(bin)) {
      symlinkSync(join('..', PACKAGE, file), join(modules, '.bin', name))
      chmodSync(join(modules, PACKAGE, file), 0o755)
    }
  }

  it('begins with npx keystore quickstart, which needs no other file, and what it says next works too', () => {
    linkCommand()
    const stdout = inApplication('npx', '--offline', 'keystore', 'quickstart')
    expect(stdout).toContain('20 secrets of 8 users encrypted into data/sealed.jsonl')
    const commands = stdout.match(/^ {2}.*npx keystore .+$/gm) ?? []
    expect(commands.map((command) => inApplication('sh', '-c', command))).toEqual([
      '',
      'my secret',
      expect.stringMatching(/│ live +│ 8 +│/),
    ])
    expect(stdout).toContain(`Read on: node_modules/${PACKAGE}/README.md `)
    // `npx keystore` outside of a project is somebody else's package; this name is ours everywhere.
    const version = JSON.parse(readFileSync('package.json', 'utf8')).version
    expect(inApplication('npx', '--offline', PACKAGE, '--version')).toBe(`${version}\n`)
  })
})

describe('the types of the packed package', () => {
  const source = `
    import * as core from '${PACKAGE}'
    import { encryptionKeys as inPostgres } from '${PACKAGE}/schema/postgres'
    import { encryptionKeys as inSqlite } from '${PACKAGE}/schema/sqlite'
    import * as testing from '${PACKAGE}/testing'
    import { memoryKeyStore } from '${PACKAGE}/memory'
    import { openKeyStore } from '${PACKAGE}/open'
    import { postgresKeyStore } from '${PACKAGE}/postgres'
    import { sqliteKeyStore } from '${PACKAGE}/sqlite'

    export const stores: core.KeyStore[] = [memoryKeyStore(), sqliteKeyStore({ path: 'x' }), postgresKeyStore({ url: 'x' })]
    export const opened: Promise<core.KeyStore> = openKeyStore(':memory:')
    export const rows: [core.KeyRecord, core.KeyRecord] = [
      {} as typeof inSqlite.$inferSelect, {} as typeof inPostgres.$inferSelect]
    export const suites: object = testing
    // Were any of these types not found, it would be any, and nothing below an error.
    // @ts-expect-error a number is no path
    sqliteKeyStore({ path: 1 })
    // @ts-expect-error a number is no url
    postgresKeyStore({ url: 1 })
    // @ts-expect-error no such option
    memoryKeyStore({ url: 'x' })
    // @ts-expect-error a column that is not there
    inPostgres.noSuchColumn
    // @ts-expect-error a column that is not there
    inSqlite.noSuchColumn
    // @ts-expect-error no such name
    core.noSuchName
  `

  /** Compiles the application's one source. @returns the compiler's complaints */
  async function compile(skipLibCheck: boolean): Promise<string> {
    const compilerOptions = {
      target: 'ES2022',
      lib: ['ES2023', 'ESNext.Disposable'],
      module: 'nodenext',
      types: [],
      strict: true,
      exactOptionalPropertyTypes: true,
      noEmit: true,
      skipLibCheck,
    }
    const config = `tsconfig.${skipLibCheck}.json`
    writeFileSync(join(application.path, config), JSON.stringify({ compilerOptions, files: ['consumer.ts'] }))
    writeFileSync(join(application.path, 'consumer.ts'), source)
    const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc')
    return (await runNode(application.path, tsc, '--project', config, '--pretty', 'false')).output
  }

  it('resolve for every entry', async () => {
    expect(await compile(true)).toBe('')
  })

  it("compile themselves, for who checks libraries too and has no types of better-sqlite3's", async () => {
    const types = join(application.path, 'node_modules', '@types')
    rmSync(types)
    mkdirSync(types)
    for (const name of ['node', 'pg'])
      symlinkSync(join(root, 'node_modules', '@types', name), join(types, name))
    const complaints = (await compile(false)).split('\n')
    // Drizzle's own declarations want the types of every driver there is; ours must be clean.
    expect(
      complaints.filter((line) => line.includes(`${PACKAGE}/`) || line.startsWith('consumer.ts')),
    ).toEqual([])
  })
})
