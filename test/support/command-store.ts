/** A folder with two master keys and a store's URL, for tests of the command line. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  EnvelopeCrypto,
  generateMasterKey,
  type KeyRecord,
  type KeyStore,
  type MasterKeyring,
  masterKeysFromFile,
} from '../../src/index.js'
import { type CommandOptions, type Ran, runKeystore, startKeystore } from './command.js'
import { type Dialect, freshDatabase, temporaryFolder } from './databases.js'
import { withStore } from './fresh-store.js'
import { rowsOf } from './rows.js'

export interface CommandStore {
  readonly folder: string
  readonly url: string
  /** The environment of commands: it names the store, and the master key `a`. */
  readonly env: Record<string, string>
  /** Runs a command with `env`. @throws if it prints a master key or the password of the URL */
  run(args: readonly string[], options?: CommandOptions): Ran
  /** Runs a command with --json. */
  json<Report = Record<string, unknown>>(
    args: readonly string[],
    options?: CommandOptions,
  ): { readonly status: number | null; readonly report: Report }
  /** Starts a command, for tests of what happens while it runs. */
  start(args: readonly string[]): ReturnType<typeof startKeystore>
  /** The keyring of keys/NAME.key; commands find the file under the same name. */
  keys(name: 'a' | 'b'): MasterKeyring
  /** Makes keys of users under master key `a`. @returns a token of each */
  mint(...userIds: readonly string[]): Promise<Record<string, string>>
  /** Opens the store as an application does, for one piece of work. */
  use<T>(work: (store: KeyStore) => Promise<T>): Promise<T>
  rows(): Promise<readonly KeyRecord[]>
  /** The plaintext of a token, or the code of the error. */
  decrypt(userId: string, token: string, keys?: 'a' | 'b'): Promise<string>
  remove(): Promise<void>
}

export async function commandStore(dialect: Dialect): Promise<CommandStore> {
  const [folder, database] = [temporaryFolder(), await freshDatabase(dialect)]
  mkdirSync(join(folder.path, 'keys'))
  for (const name of ['a', 'b'])
    writeFileSync(join(folder.path, 'keys', `${name}.key`), `${generateMasterKey()}\n`, { mode: 0o600 })
  const { url } = database
  const env = { KEYSTORE_URL: url, API_KEY_MASTER_KEY_FILE: 'keys/a.key' }
  const keys = (name: string) => masterKeysFromFile(join(folder.path, 'keys', `${name}.key`))
  const texts = ['a', 'b'].map((name) =>
    readFileSync(join(folder.path, 'keys', `${name}.key`), 'utf8').trim(),
  )
  const password = dialect === 'postgres' ? new URL(url).password : ''
  const secrets = [...texts, password].filter((secret) => secret !== '')
  const run: CommandStore['run'] = (args, options = {}) => {
    const ran = runKeystore(folder.path, args, { ...options, env: { ...env, ...options.env } })
    if (secrets.some((secret) => (ran.stdout + ran.stderr).includes(secret)))
      throw new Error(`keystore ${args[0]} printed a master key or the password of the URL`)
    return ran
  }

  const use: CommandStore['use'] = (work) => withStore(url, work)

  return {
    folder: folder.path,
    url,
    env,
    run,
    keys,
    use,
    json(args, options) {
      const { status, stdout } = run([...args, '--json'], options)
      return { status, report: JSON.parse(stdout) }
    },
    start: (args) => startKeystore(folder.path, args, env),
    rows: () => use(rowsOf),
    mint: (...userIds) =>
      use(async (store) => {
        const envelope = await EnvelopeCrypto.open({ store, masterKeys: keys('a'), closeStore: false })
        const results = await envelope.encryptMany(
          userIds.map((userId) => ({ userId, plaintext: `secret of ${userId}` })),
        )
        return Object.fromEntries(
          results.map((result, index) => {
            if (!result.ok) throw result.error
            return [userIds[index], result.value]
          }),
        )
      }),
    decrypt: (userId, token, name = 'a') =>
      use(async (store) => {
        const envelope = await EnvelopeCrypto.open({ store, masterKeys: keys(name), closeStore: false })
        return envelope.decrypt(userId, token).catch((error) => String(error.code))
      }),
    async remove() {
      await database.remove()
      folder.remove()
    },
  }
}
