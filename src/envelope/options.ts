/** The options of EnvelopeCrypto.open, and what follows from them. */
import { invalidArgument } from '../errors.js'
import { type EmitEvent, type EventOptions, eventEmitter } from '../events.js'
import { acceptedFormats, assertFormat, type Format } from '../format/formats.js'
import { DEFAULT_MAX_TOKEN_BYTES } from '../format/token.js'
import { assertKeyLog, type KeyLog } from '../key-log/entry.js'
import { loggedStore } from '../key-log/logged-store.js'
import type { CacheOptions } from '../keys/cache-options.js'
import { primaryKekId } from '../master-keys/key-wrap.js'
import { keyringOf, type MasterKeyring } from '../master-keys/keyring.js'
import type { MasterKey } from '../master-keys/master-key.js'
import type { KeyStore } from '../store.js'
import { kindOf, knownOptions } from '../validate.js'
import { type PlaintextPolicy, TokenPolicy } from './token-policy.js'

/** The options of {@link EnvelopeCrypto.open}. */
export interface EnvelopeCryptoOptions extends EventOptions {
  /** Where wrapped keys are kept: `openKeyStore(url)`, or an adapter's factory. */
  readonly store: KeyStore
  /** `masterKeysFromEnv()`, a keyring, or one master key. */
  readonly masterKeys: MasterKeyring | MasterKey
  /** What is written. Default `'v3'`; `'v2'` is the Python reference's, which binds nothing. */
  readonly format?: Format
  /**
   * Which formats of wrapped keys and of tokens are read, besides the one that is written. To adopt the reference's data, name `'v2'` too.
   * Take it out of `keys` after a rewrap and out of `tokens` after a re-encryption: while it is accepted, anyone who can write to the
   * database can exchange two users' v2 keys or tokens.
   */
  readonly accept?: { readonly keys?: readonly Format[]; readonly tokens?: readonly Format[] }
  /**
   * What `decrypt` does with a value that is not a token. Default `'reject'`: ERR_NOT_ENCRYPTED. `'pass-through'` returns the value and
   * gives up integrity: anyone who can write to the database can then put any plaintext in a token's place.
   */
  readonly plaintext?: PlaintextPolicy
  /**
   * The longest token, in bytes. A longer one is ERR_MALFORMED_TOKEN before anything is decoded, and a plaintext whose token would be longer
   * is ERR_INVALID_ARGUMENT before anything is copied. Whoever can make the application decrypt a value of theirs could else make it
   * use several times that much memory. 1,000 to 536,870,888, which is Node's longest string. Default 67,108,864 (64 MiB), for plaintexts of
   * up to 50,331,569 bytes.
   */
  readonly maxTokenBytes?: number
  /** The cache of unwrapped keys, or false for none. */
  readonly cache?: CacheOptions | false
  /** Open although rows need master keys that were not given: calls for their users then fail. Default false. */
  readonly allowUnknownMasterKeys?: boolean
  /**
   * `'never'`: no user gets a first key here. For users without one, and for the pool, what would make it is ERR_KEY_NOT_FOUND. Rotation
   * goes on. For services that use keys which another one makes. Default `'on-first-use'`.
   */
  readonly mint?: 'on-first-use' | 'never'
  /**
   * Records each key that is minted, rotated or shredded, outside the database. `open` compares the end of a file with the store, and
   * refuses a store that lacks keys of it (ERR_KEYS_LOST). After a backup was restored, `applyKeyLog` shreds again whom it brought back.
   *
   * @example 'keys.jsonl'
   */
  readonly keyLog?: KeyLog | undefined
  /** Whether `close()` closes the store too, and `open` when it rejects. Default true. */
  readonly closeStore?: boolean
}

export interface ResolvedOptions {
  /** With a key log: one that records in it. */
  readonly store: KeyStore
  readonly keyring: MasterKeyring
  readonly format: Format
  readonly acceptKeys: readonly Format[]
  readonly tokenPolicy: TokenPolicy
  readonly plaintext: PlaintextPolicy
  readonly cache: CacheOptions | false
  readonly allowUnknown: boolean
  readonly emit: EmitEvent
  readonly closeStore: boolean
  readonly mints: boolean
  /** The path of the key log, if it has one. */
  readonly keyLogPath: string | undefined
}

/** Typed by the options, so that none can be missing here. */
const OPTIONS: Readonly<Record<keyof EnvelopeCryptoOptions, true>> = {
  store: true,
  masterKeys: true,
  format: true,
  accept: true,
  plaintext: true,
  maxTokenBytes: true,
  cache: true,
  allowUnknownMasterKeys: true,
  mint: true,
  keyLog: true,
  closeStore: true,
  onEvent: true,
}
const ACCEPT_OPTIONS = { keys: true, tokens: true } satisfies Record<
  keyof NonNullable<EnvelopeCryptoOptions['accept']>,
  true
>
const CACHE_OPTIONS = { maxEntries: true, ttlMs: true } satisfies Record<keyof CacheOptions, true>

/** @throws ERR_INVALID_ARGUMENT */
export function resolveOptions(options: EnvelopeCryptoOptions): ResolvedOptions {
  const own = knownOptions(options, OPTIONS, 'EnvelopeCrypto.open')
  const {
    store,
    masterKeys,
    format = 'v3',
    plaintext = 'reject',
    cache = {},
    mint = 'on-first-use',
    keyLog,
  } = own
  const accept = knownOptions(own.accept ?? {}, ACCEPT_OPTIONS, 'accept', 'accept')
  if (store instanceof Promise) throw invalidArgument('store is a promise: write `await openKeyStore(…)`')
  if (typeof store?.getAll !== 'function')
    throw invalidArgument(`store must be a KeyStore, such as \`await openKeyStore(…)\`, got ${kindOf(store)}`)
  assertFormat(format)
  if (plaintext !== 'reject' && plaintext !== 'pass-through') {
    throw invalidArgument("plaintext must be 'reject' or 'pass-through'")
  }
  if (mint !== 'on-first-use' && mint !== 'never')
    throw invalidArgument("mint must be 'on-first-use' or 'never'")
  if (keyLog !== undefined) assertKeyLog(keyLog)
  const keyring = keyringOf(masterKeys)
  // Format v2 needs a local primary: better said now than at the first mint.
  primaryKekId(keyring, format)
  if (format === 'v2' && keyring.tenantOf !== null)
    throw invalidArgument("format 'v2' has no keys of tenants: open with format 'v3', or without tenantOf")
  return {
    store: keyLog === undefined ? store : loggedStore(store, keyLog),
    keyring,
    format,
    acceptKeys: acceptedFormats('accept.keys', accept.keys, format),
    tokenPolicy: new TokenPolicy(
      format,
      acceptedFormats('accept.tokens', accept.tokens, format),
      plaintext,
      checkedMaxTokenBytes(own.maxTokenBytes),
    ),
    plaintext,
    cache: checkedCache(cache),
    allowUnknown: own.allowUnknownMasterKeys ?? false,
    emit: eventEmitter(own),
    closeStore: own.closeStore ?? true,
    mints: mint !== 'never',
    keyLogPath: typeof keyLog === 'string' ? keyLog : undefined,
  }
}

/** Every id, name and short secret has a shorter token. Above is V8's longest string on 64 bits. */
const LEAST_TOKEN_BYTES = 1000
const MOST_TOKEN_BYTES = 2 ** 29 - 24

function checkedMaxTokenBytes(maxTokenBytes: number = DEFAULT_MAX_TOKEN_BYTES): number {
  const isWhole = Number.isInteger(maxTokenBytes)
  if (isWhole && maxTokenBytes >= LEAST_TOKEN_BYTES && maxTokenBytes <= MOST_TOKEN_BYTES) return maxTokenBytes
  throw invalidArgument(
    `maxTokenBytes must be a whole number from ${LEAST_TOKEN_BYTES} to ${MOST_TOKEN_BYTES}`,
  )
}

/** lru-cache allocates all entries at once, and a timer takes no longer time. */
const MOST = { maxEntries: 1_000_000, ttlMs: 2 ** 31 - 1 }

function checkedCache(cache: CacheOptions | false): CacheOptions | false {
  if (cache === false) return false
  if (typeof cache !== 'object' || cache === null)
    throw invalidArgument(`cache must be an object or false, got ${kindOf(cache)}`)
  const own = knownOptions(cache, CACHE_OPTIONS, 'cache', 'cache')
  for (const name of Object.keys(CACHE_OPTIONS) as (keyof CacheOptions)[]) {
    const value = own[name]
    if (value !== undefined && !(Number.isInteger(value) && value > 0 && value <= MOST[name])) {
      throw invalidArgument(`cache.${name} must be a positive whole number, at most ${MOST[name]}`)
    }
  }
  return own
}
