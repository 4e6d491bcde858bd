/** A folder and a store with users in it, for tests of the command line. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { openKeyStore } from '../../src/adapters/open.js'
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

export interface CommandStore {
  readonly folder: string
  readonly url: string
  /** What commands are given: the store, and the master key `a`. */
  readonly env: Record<string, string>
  /** Runs a command with `env`. @throws if it prints a master key or the password of the URL */
  run(args: readonly string[], options?: CommandOptions): Ran
  /** The same with --json. */
  json<Report = Record<string, unknown>>(
    args: readonly string[],
    options?: CommandOptions,
  ): { readonly status: number | null; readonly report: Report }
  start(args: readonly string[]): ReturnType<typeof startKeystore>
  /** The keyring of keys/NAME.key; commands find the file under the same name. */
  keys(name: 'a' | 'b'): MasterKeyring
  /** Makes keys of users under master key `a`. @returns a token of each */
  mint(...userIds: readonly string[]): Promise<Record<string, string>>
  /** Opens the store as an application does, for the time of `work`. */
  use<T>(work: (store: KeyStore) => Promise<T>): Promise<T>
  rows(): Promise<readonly KeyRecord[]>
  /** What a token decrypts to, or the code of the error. */
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

  async function use<T>(work: (store: KeyStore) => Promise<T>): Promise<T> {
    const store = await openKeyStore(url)
    try {
      return await work(store)
    } finally {
      await store.close()
    }
  }

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
    rows: () => use((store) => store.list({ limit: 100_000 })),
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

/** `user-0` … */
export function userIds(count: number): string[] {
  return Array.from({ length: count }, (_, index) => `user-${index}`)
}
