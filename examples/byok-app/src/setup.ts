/**
 * `npm run setup`: a configuration with secrets of its own in `.env`, a `.gitignore` that names it, a master key, and the tables.
 * Run again, it makes what is missing and changes nothing else.
 */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { configFrom, loadDotEnv } from './config.js'
import { openDatabase } from './database.js'

const isConfigured = () => process.env.BETTER_AUTH_SECRET || process.env.BETTER_AUTH_SECRET_FILE

/** What belongs into no repository. The package of npm cannot bring this file: npm leaves it out. */
const IGNORED = ['node_modules/', 'dist/', '.env', 'data/', 'keys/', 'secrets/']

async function setUp(): Promise<void> {
  loadDotEnv()
  if (!isConfigured() && !existsSync('.env')) {
    const lines = [
      '# Keep this file out of git and out of backups of the database.',
      `BETTER_AUTH_SECRET=${randomBytes(32).toString('base64url')}`,
      'API_KEY_MASTER_KEY_FILE=keys/master.key',
      `DATABASE_URL=${process.env.DATABASE_URL ?? 'data/app.db'}`,
      '# Whose page is /operator: the id that the page Account shows.',
      'OPERATOR_USER_ID=',
    ]
    if (!existsSync('.gitignore')) {
      writeFileSync('.gitignore', `${IGNORED.join('\n')}\n`, { flag: 'wx' })
      console.log('Made .gitignore, which keeps secrets and the database out of git.')
    }
    writeFileSync('.env', `${lines.join('\n')}\n`, { mode: 0o600, flag: 'wx' })
    console.log('Made .env, with a secret for sessions.\n')
    loadDotEnv()
  }

  const config = configFrom(process.env)
  const keyFile = process.env.API_KEY_MASTER_KEY_FILE
  const command = join(
    dirname(createRequire(import.meta.url).resolve('drizzle-keystore/package.json')),
    'dist/cli/main.js',
  )
  execFileSync(
    process.execPath,
    // A file that is not there yet: the option makes it.
    [command, 'init', ...(keyFile && !existsSync(keyFile) ? ['--master-key-file', keyFile] : [])],
    { stdio: ['inherit', 'ignore', 'inherit'], env: { ...process.env, KEYSTORE_URL: config.databaseUrl } },
  )
  await (await openDatabase(config.databaseUrl)).close()
  console.log(
    `The tables are there${keyFile ? `, and the master key is in ${keyFile}. Back it up, but not beside the database` : ''}.`,
  )
  console.log('Next: npm start')
}

setUp().catch((error) => {
  // What the command has to say, it has said itself.
  if (!isFailedCommand(error)) console.error(error instanceof Error ? error.message : 'The setup failed.')
  process.exitCode = 1
})

const isFailedCommand = (error: unknown) => error instanceof Error && 'status' in error
