/** The options that several commands share, and what they open. */
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { type OpenedKeyStore, openKeyStore } from '../adapters/open.js'
import { EnvelopeCrypto } from '../envelope-crypto.js'
import {
  generateMasterKey,
  type MasterKeyring,
  masterKeysFromEnv,
  masterKeysFromFile,
} from '../master-key.js'
import type { MigrateMode } from '../migrator.js'
import type { KeyStore } from '../store.js'
import type { Format } from '../token.js'
import type { EncryptionContext } from '../validate.js'

const DEFAULT_STORE = 'sqlite:data/keystore.db'
const DEFAULT_MASTER_KEY_FILE = 'data/master.key'

export interface StoreOptions {
  readonly store: string
  readonly adopt?: boolean
}

export interface MasterKeyOptions {
  readonly masterKeyFile?: string
}

export interface EnvelopeOptions extends StoreOptions, MasterKeyOptions {
  readonly format?: Format
  readonly acceptV2?: boolean
}

export function withStore(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--store <url>',
        'a path, sqlite:… or postgres://…; put a URL with a password into the environment',
      )
        .env('KEYSTORE_URL')
        .default(DEFAULT_STORE),
    )
    .option('--adopt', 'take over a SQLite file of the Python reference')
}

export function withMasterKey(command: Command): Command {
  return command.option(
    '--master-key-file <path>',
    `the file with the master key (default: $API_KEY_MASTER_KEY, $API_KEY_MASTER_KEY_FILE or ${DEFAULT_MASTER_KEY_FILE})`,
  )
}

export function withEnvelopeOptions(command: Command): Command {
  return withMasterKey(withStore(command))
    .addOption(
      new Option('--format <format>', "what is written (default: v3; v2 is the Python reference's)").choices([
        'v3',
        'v2',
      ]),
    )
    .option('--accept-v2', "read the Python reference's keys and tokens too, which are bound to no user")
}

export function withUserAndContext(command: Command): Command {
  return command
    .requiredOption('--user <id>', 'the user whose key it is')
    .addOption(
      new Option('--context <name=value>', 'a pair of the context; may be repeated')
        .argParser(collectPair)
        .default({}, 'none'),
    )
}

function collectPair(pair: string, pairs: EncryptionContext): EncryptionContext {
  const at = pair.indexOf('=')
  if (at < 1) throw new InvalidArgumentError('It must be name=value.')
  return { ...pairs, [pair.slice(0, at)]: pair.slice(at + 1) }
}

export function openStore(options: StoreOptions, migrate: MigrateMode = 'auto'): Promise<OpenedKeyStore> {
  return openKeyStore(options.store, { migrate, ...(options.adopt ? { adopt: true } : {}) })
}

/** The file named on the command line, else the environment, else the file that `init` makes, if it is there. */
export function findMasterKeys({ masterKeyFile }: MasterKeyOptions): MasterKeyring {
  if (masterKeyFile !== undefined) return masterKeysFromFile(masterKeyFile)
  if (!isGivenByEnvironment() && existsSync(DEFAULT_MASTER_KEY_FILE))
    return masterKeysFromFile(DEFAULT_MASTER_KEY_FILE)
  return masterKeysFromEnv()
}

/** The same, but makes the file if there is no master key at all. @returns also a line that says where it is */
export function findOrMakeMasterKeys(options: MasterKeyOptions): { masterKeys: MasterKeyring; said: string } {
  const { masterKeyFile: path = DEFAULT_MASTER_KEY_FILE } = options
  if (options.masterKeyFile === undefined && isGivenByEnvironment()) {
    return { masterKeys: masterKeysFromEnv(), said: 'Master key: from the environment' }
  }
  const made = makeMasterKeyFile(path)
  const said = made
    ? `Master key: made ${path} (mode 0600). Back it up: without it nothing can be decrypted`
    : `Master key: ${path} (reused)`
  return { masterKeys: masterKeysFromFile(path), said }
}

/** @returns false if the file is there already; it is never overwritten */
function makeMasterKeyFile(path: string): boolean {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  let file: number
  try {
    file = openSync(path, 'wx', 0o600)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false
    throw error
  }
  try {
    writeSync(file, `${generateMasterKey()}\n`)
    // Keys will be wrapped under it in a moment: it must outlive a power cut as they do.
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
  return true
}

function isGivenByEnvironment(): boolean {
  const { API_KEY_MASTER_KEY = '', API_KEY_MASTER_KEY_FILE = '' } = process.env
  return API_KEY_MASTER_KEY.trim() !== '' || API_KEY_MASTER_KEY_FILE.trim() !== ''
}

/** Opens store and service, and closes both after `work`. */
export async function withEnvelope<T>(
  options: EnvelopeOptions,
  work: (envelope: EnvelopeCrypto) => Promise<T>,
): Promise<T> {
  const masterKeys = findMasterKeys(options)
  const store = await openStore(options)
  try {
    return await work(await openEnvelope(store, masterKeys, options))
  } finally {
    await store.close()
  }
}

export function openEnvelope(
  store: KeyStore,
  masterKeys: MasterKeyring,
  { format, acceptV2 }: EnvelopeOptions,
): Promise<EnvelopeCrypto> {
  return EnvelopeCrypto.open({
    store,
    masterKeys,
    ...(format === undefined ? {} : { format }),
    ...(acceptV2 ? { accept: { keys: ['v2'], tokens: ['v2'] } } : {}),
  })
}
