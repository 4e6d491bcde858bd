// Rows of the packaging matrix: Node.js itself, installs with one driver, package managers, and TypeScript.
import { join } from 'node:path'
import { DRIVERS, PACKAGE, program } from './project.mjs'

const NODE = `Node.js ${process.versions.node}`
const BOTH = [...new Set([...DRIVERS.sqlite, ...DRIVERS.postgres])]
const TYPES = ['@types/node@20', '@types/pg@8', '@types/better-sqlite3@7']

export const nodeRows = [
  {
    row: 'ESM',
    ci: true,
    async run(project) {
      project.install(...BOTH)
      for (const [entry, dialect] of [
        ['sqlite', 'sqlite'],
        ['postgres', 'postgres'],
        ['open', 'sqlite'],
        ['open', 'postgres'],
      ]) {
        project.write(`${entry}.mjs`, program(entry))
        await project.check(dialect, [process.execPath, `${entry}.mjs`])
      }
      return [NODE]
    },
  },
  {
    row: '`require()`',
    ci: true,
    async run(project) {
      project.install(...BOTH)
      for (const [entry, dialect] of [
        ['sqlite', 'sqlite'],
        ['postgres', 'postgres'],
        ['open', 'sqlite'],
        ['open', 'postgres'],
      ]) {
        project.write(`${entry}.cjs`, program(entry, 'commonjs'))
        await project.check(dialect, [process.execPath, `${entry}.cjs`])
      }
      return [NODE]
    },
  },
  {
    row: 'TypeScript, `node16` and `bundler`, `skipLibCheck: false`',
    ci: true,
    async run(project) {
      project.install(...BOTH, ...TYPES, 'typescript@5.9')
      for (const module of ['node16', 'bundler'])
        compile(project, { ...resolution(module), types: ['node'], target: 'es2022' })
      return [project.version('typescript')]
    },
  },
  ...Object.keys(DRIVERS).map((dialect) => ({
    row: `only ${dialect === 'sqlite' ? 'SQLite' : 'Postgres'} installed`,
    ci: true,
    async run(project) {
      project.install(...DRIVERS[dialect])
      for (const entry of [dialect, 'open']) {
        project.write(`${entry}.mjs`, program(entry))
        await project.check(dialect, [process.execPath, `${entry}.mjs`])
      }
      const env = await project.storeEnvironment(dialect)
      for (const command of ['init', 'doctor'])
        project.run(project.bin(PACKAGE), [command, '--store', env.STORE], env)
      return DRIVERS[dialect].map((spec) => spec.replace('@', ' '))
    },
  })),
  {
    row: 'pnpm',
    async run(project) {
      project.install('pnpm@10')
      const pnpm = project.bin('pnpm')
      const version = project.version('pnpm')
      project.write('in/package.json', '{ "name": "application", "private": true, "type": "module" }')
      // pnpm looks for its store and its workspace in the folders above, too.
      project.write('in/pnpm-workspace.yaml', 'packages: []\n')
      const flags = ['--dir', 'in', '--prefer-offline', '--ignore-scripts', '--config.minimum-release-age=0']
      project.run(pnpm, ['add', ...flags, project.tarballSpec, ...BOTH])
      project.addBinary(join(project.path, 'in', 'node_modules', 'better-sqlite3'))
      for (const dialect of Object.keys(DRIVERS)) {
        project.write(`in/${dialect}.mjs`, program(dialect))
        await project.check(dialect, [process.execPath, `in/${dialect}.mjs`])
      }
      return [version]
    },
  },
  ...['5.5', '5.9', '7'].map((version) => ({
    row: `TypeScript ${version} without \`types\``,
    async run(project) {
      project.install(...BOTH, ...TYPES, `typescript@${version}`)
      for (const module of ['node16', 'bundler'])
        compile(project, { ...resolution(module), types: [], target: 'es2022' })
      return [project.version('typescript')]
    },
  })),
]

function resolution(module) {
  return module === 'bundler' ? { module: 'esnext', moduleResolution: 'bundler' } : { module: 'node16' }
}

/** Uses every entry. Were a type not found, it would be any, and the last lines no errors. */
const CONSUMER = `
import { EnvelopeCrypto, type KeyStore, masterKeysFromEnv } from '${PACKAGE}'
import { encryptedText as onPostgres } from '${PACKAGE}/drizzle/postgres'
import { encryptedText as onSqlite } from '${PACKAGE}/drizzle/sqlite'
import { memoryKeyStore } from '${PACKAGE}/memory'
import { openKeyStore } from '${PACKAGE}/open'
import { postgresKeyStore } from '${PACKAGE}/postgres'
import { drizzleSource, reencrypt } from '${PACKAGE}/reencrypt'
import { encryptionKeys as inPostgres } from '${PACKAGE}/schema/postgres'
import { encryptionKeys as inSqlite } from '${PACKAGE}/schema/sqlite'
import { sqliteKeyStore } from '${PACKAGE}/sqlite'
import { testKeyStore } from '${PACKAGE}/testing'

export const stores: KeyStore[] = [memoryKeyStore(), sqliteKeyStore({ path: 'x' }), postgresKeyStore({ url: 'x' })]
export async function work(): Promise<[string, Uint8Array]> {
  await using envelope = await EnvelopeCrypto.open({ store: await openKeyStore('x'), masterKeys: masterKeysFromEnv() })
  return [await envelope.encrypt('a', 'b'), await envelope.decryptBytes('a', 'token')]
}
export const others = [onPostgres, onSqlite, drizzleSource, reencrypt, inPostgres, inSqlite, testKeyStore]
// @ts-expect-error a number is no path
sqliteKeyStore({ path: 1 })
// @ts-expect-error a number is no url
postgresKeyStore({ url: 1 })
// @ts-expect-error no such name
memoryKeyStore().noSuchName
`

/** @throws Error with the compiler's complaints about our declarations and our user's file */
function compile(project, compilerOptions) {
  const options = { strict: true, noEmit: true, skipLibCheck: false, ...compilerOptions }
  project.write('tsconfig.json', JSON.stringify({ compilerOptions: options, files: ['consumer.ts'] }))
  project.write('consumer.ts', CONSUMER)
  let complaints = ''
  try {
    complaints = project.run(project.bin('tsc'), ['--project', '.', '--pretty', 'false'])
  } catch (error) {
    complaints = error.message
  }
  // Drizzle's own declarations want the types of every driver there is.
  const ours = complaints
    .split('\n')
    .filter((line) => line.includes(`${PACKAGE}/`) || /^(consumer\.ts|error|tsconfig)/.test(line))
  if (ours.length > 0) throw new Error(ours.join('\n'))
}
