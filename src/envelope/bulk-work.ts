/** What a bulk call does with one item: reads it, once, and seals or opens it under its key. No closure and no promise an item. */
import type { EmitEvent } from '../events.js'
import { contextPieces, type EncryptionContext } from '../format/context.js'
import { type ParsedToken, type Token, textOf } from '../format/token.js'
import type { KeyCache } from '../keys/cache.js'
import { AS_TEXT, type DataKey } from '../keys/data-key.js'
import type { WantedKey } from '../keys/look-up.js'
import { assertPlainOptions, assertUserId, unreadable } from '../validate.js'
import { type EncryptOptions, refuseToken, type TokenPolicy } from './token-policy.js'

/** One value for `envelope.pool.encryptMany`. */
export interface PoolEncryptItem extends EncryptOptions {
  /** Well-formed text, which may be empty. */
  readonly plaintext: string
  /** Authenticated and not stored: `pool.decrypt` needs the same. Default `{}`. */
  readonly context?: EncryptionContext
}

/** One value for `envelope.pool.decryptMany`. */
export interface PoolDecryptItem {
  /** What `pool.encrypt` returned. */
  readonly token: string
  /** The map that `pool.encrypt` was given. Default `{}`. */
  readonly context?: EncryptionContext
}

/** One value for `EnvelopeCrypto.encryptMany`. */
export interface EncryptItem extends PoolEncryptItem {
  /** For whom: 1 to 512 bytes of UTF-8. */
  readonly userId: string
}

/** One value for `EnvelopeCrypto.decryptMany`. */
export interface DecryptItem extends PoolDecryptItem {
  /** Whose token it is: 1 to 512 bytes of UTF-8. */
  readonly userId: string
}

/** What there is of an item after it was read: one shape for both calls. */
export interface Job extends WantedKey {
  readonly needsKey: boolean
  /** The plaintext or the token. */
  readonly input: string
  readonly pieces: readonly string[]
  /** The token, taken apart; null for a plaintext, for what passes through, and for a token of which nothing but the version was read. */
  readonly parsed: ParsedToken | null
}

export interface BulkWork<Item, Value> {
  /** Nothing is written under a key that ended, or is not the highest any more, while the keys of other items were looked up. */
  readonly writes: boolean
  /** Reads and checks an item. Its getters run here, and nowhere else. @throws what its result is to say */
  read(item: Item): Job
  /** To be called before its key is looked up: a value that is refused for itself costs no query. @throws what its result is to say */
  check(job: Job): void
  /** @throws ERR_DECRYPTION_FAILED */
  run(job: Job, key: DataKey): Value
  /** {@link run} of a job that needs no key. */
  runWithoutKey(job: Job): Value | Promise<Value>
  /** Looks the key up once more: what was found must not be used any more. */
  lookUpAgain(job: Job): Promise<DataKey>
}

/** What bulk calls need of their service. */
export interface BulkService {
  readonly keys: KeyCache
  readonly policy: TokenPolicy
  readonly emit: EmitEvent
  readonly assertOpen: () => void
}

/** Seals in format v2 what is under no data key. */
export type SealV2 = (plaintext: string) => Promise<Token>

/** Opens tokens of format v2 that are under no data key. */
export type OpenV2 = (token: ParsedToken, context: readonly string[]) => Promise<Buffer>

export class Encrypting implements BulkWork<PoolEncryptItem, Token> {
  readonly writes = true
  readonly #service: BulkService
  readonly #ownerId: string | null
  readonly #sealV2: SealV2 | null

  /**
   * @param ownerId of all items; null: each names its user
   * @param sealV2 null: format v2 is under the data keys, too
   */
  constructor(service: BulkService, ownerId: string | null, sealV2: SealV2 | null = null) {
    this.#service = service
    this.#ownerId = ownerId
    this.#sealV2 = sealV2
  }

  read(item: PoolEncryptItem): Job {
    assertPlainOptions(item, 'an item')
    let userId: unknown = this.#ownerId
    let plaintext: unknown
    let context: unknown
    let allowToken: boolean | undefined
    try {
      // What an object spread would copy: no prototype counts. To ask for one property after the other takes three times as long. Each is read
      // by its name, which V8 does much faster than by a variable; and once, since a getter may give something else the next time.
      for (const name of Object.keys(item)) {
        if (name === 'plaintext') plaintext = item.plaintext
        else if (name === 'context') context = item.context
        else if (name === 'allowToken') allowToken = item.allowToken
        else if (name === 'userId' && userId === null) userId = (item as EncryptItem).userId
      }
    } catch {
      throw unreadable('an item')
    }
    if (this.#ownerId === null) assertUserId(userId)
    const policy: TokenPolicy = this.#service.policy
    policy.assertPlaintext(plaintext)
    const pieces = contextPieces(context)
    refuseToken(plaintext, { allowToken: allowToken ?? false })
    const needsKey = this.#sealV2 === null || policy.format !== 'v2'
    return { userId: userId as string, version: undefined, needsKey, input: plaintext, pieces, parsed: null }
  }

  check(): void {}

  run({ input, pieces }: Job, key: DataKey): Token {
    return key.seal(this.#service.policy.format, input, pieces)
  }

  runWithoutKey({ input }: Job): Promise<Token> {
    return (this.#sealV2 as SealV2)(input)
  }

  lookUpAgain({ userId }: Job): Promise<DataKey> {
    return this.#service.keys.forWriting(userId)
  }
}

export class Decrypting implements BulkWork<PoolDecryptItem, string> {
  readonly writes = false
  readonly #service: BulkService
  readonly #ownerId: string | null
  readonly #openV2: OpenV2 | null

  /**
   * @param ownerId of all items; null: each names its user
   * @param openV2 null: format v2 is under the data keys, too
   */
  constructor(service: BulkService, ownerId: string | null, openV2: OpenV2 | null = null) {
    this.#service = service
    this.#ownerId = ownerId
    this.#openV2 = openV2
  }

  read(item: PoolDecryptItem): Job {
    assertPlainOptions(item, 'an item')
    let owner: unknown = this.#ownerId
    let token: unknown
    let context: unknown
    try {
      for (const name of Object.keys(item)) {
        if (name === 'token') token = item.token
        else if (name === 'context') context = item.context
        else if (name === 'userId' && owner === null) owner = (item as DecryptItem).userId
      }
    } catch {
      throw unreadable('an item')
    }
    if (this.#ownerId === null) assertUserId(owner)
    const userId = owner as string
    const { policy, assertOpen } = this.#service
    const passesThrough = policy.passesThrough(token)
    if (passesThrough) assertOpen()
    const pieces = contextPieces(context)
    const input = token as string
    if (passesThrough) return { userId, version: undefined, needsKey: false, input, pieces, parsed: null }
    const version = policy.versionAtStart(token)
    if (version > 0) return { userId, version, needsKey: true, input, pieces, parsed: null }
    const parsed = policy.parse(token)
    const needsKey = this.#openV2 === null || parsed.format !== 'v2'
    return { userId, version: parsed.version, needsKey, input, pieces, parsed }
  }

  check(job: Job): void {
    if (job.version !== undefined) this.#parsed(job)
  }

  run(job: Job, key: DataKey): string {
    const { input, parsed, pieces } = job
    const text = parsed === null ? AS_TEXT.unparsed(key, input, pieces) : null
    return text ?? AS_TEXT.parsed(key, this.#parsed(job), pieces, this.#service.emit)
  }

  runWithoutKey(job: Job): string | Promise<string> {
    if (job.version === undefined) return job.input
    return (this.#openV2 as OpenV2)(this.#parsed(job), job.pieces).then(textOf)
  }

  #parsed({ parsed, input }: Job): ParsedToken {
    return parsed ?? this.#service.policy.parse(input)
  }

  lookUpAgain({ userId, version }: Job): Promise<DataKey> {
    return this.#service.keys.get({ userId, version: version as number })
  }
}
