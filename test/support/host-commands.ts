/** A host's table `credentials`, for tests of the commands that sweep and check a host's values. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { EnvelopeCrypto, encryptWithKey } from '../../src/index.js'
import type { Ran } from './command.js'
import { type CommandStore, commandStore } from './command-store.js'
import type { Dialect } from './databases.js'
import { linkPackages } from './host-project.js'
import { type RawDatabase, type RawRow, rawDatabase } from './raw-database.js'
import { ACCEPT_V2 } from './tokens.js'

/** The context of current values. */
export const CONTEXT = { column: 'credentials.api_key' }

export interface HostCommands {
  /** Its keys are in another database than the host's table. */
  readonly store: CommandStore
  readonly app: RawDatabase
  /** Runs a command with the URL of the host's database in its environment. */
  run(args: readonly string[]): Ran
  /** The same with --json. */
  json<Report>(args: readonly string[]): { readonly status: number | null; readonly report: Report }
  /** Opens a service under the command line's master key, for one piece of work. */
  withService<T>(work: (envelope: EnvelopeCrypto) => Promise<T>): Promise<T>
  /** Inserts values of Alice and Bob: a plaintext, a v2 token, a v3 token of another context, a current one, and null. */
  fill(): Promise<void>
  /** All rows, by id. */
  stored(): Promise<RawRow[]>
  remove(): Promise<void>
}

export async function hostCommands(dialect: Dialect): Promise<HostCommands> {
  const store = await commandStore(dialect)
  const app = await rawDatabase(dialect)
  // Makes the table of keys.
  await store.use(async () => undefined)
  await app.query('create table credentials (id integer primary key, user_id text, api_key text, note text)')
  const options = { env: { DATABASE_URL: app.url } }

  const withService: HostCommands['withService'] = (work) =>
    store.use(async (keys) => {
      const settings = { store: keys, masterKeys: store.keys('a'), closeStore: false }
      return work(await EnvelopeCrypto.open({ ...settings, accept: ACCEPT_V2 }))
    })

  return {
    store,
    app,
    withService,
    run: (args) => store.run(args, options),
    json: (args) => store.json(args, options),
    fill: () =>
      withService(async (envelope) => {
        const v2 = encryptWithKey('of 2', await envelope.getOrCreateUserKey('bob'))
        await app.insert('credentials', [
          { id: 1, user_id: 'alice', api_key: 'of 1' },
          { id: 2, user_id: 'bob', api_key: v2 },
          { id: 3, user_id: 'bob', api_key: await envelope.encrypt('bob', 'of 3', { place: 'old' }) },
          { id: 4, user_id: 'alice', api_key: await envelope.encrypt('alice', 'of 4', CONTEXT) },
          { id: 5, user_id: 'alice', api_key: null },
        ])
      }),
    stored: () => app.query('select * from credentials order by id'),
    async remove() {
      await app.close()
      await store.remove()
    },
  }
}

/** Writes schema.mjs as an application has it, compiled, beside a node_modules. @param code what follows its imports */
export function writeSchema(folder: string, dialect: Dialect, code: string): void {
  linkPackages(folder, 'drizzle-orm')
  const core = dialect === 'sqlite' ? 'sqlite' : 'pg'
  writeFileSync(
    join(folder, 'schema.mjs'),
    `import { defineEncrypted } from 'drizzle-keystore/reencrypt'
     import { encryptedFields, encryptedText, fingerprintText, tokenText } from 'drizzle-keystore/drizzle/${dialect}'
     import { integer, ${core}Table as table, text } from 'drizzle-orm/${core}-core'
     ${code}`,
  )
}
