/**
 * Auth.js (NextAuth). Exported as `drizzle-keystore/auth-js`.
 *
 * Its database adapter is wrapped, since only there a token has its row: at a sign-up no scope could be open yet. The adapter is taken by its
 * shape, and no package of Auth.js is loaded.
 */
import type { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import { invalidArgument, isKeystoreError, KeystoreError, quoted } from '../errors.js'
import { eventEmitter } from '../events.js'
import { kindOf, knownOptions, ownOptions } from '../validate.js'
import { type AdapterOptions, assertShredOnDelete } from './adapter-options.js'
import { type FieldCell, FieldCrypto, rowIdOf } from './field-crypto.js'

export type { OnUnreadable, StoredPlaintext, UnreadableField } from './field-crypto.js'

/** The options of {@link encryptedAdapter}. */
export interface EncryptedAdapterOptions extends AdapterOptions {
  /**
   * Further fields of accounts that are encrypted, or with false: default ones that are not. They hold text. Default: `access_token`,
   * `refresh_token` and `id_token`.
   *
   * @example { oauth_token_secret: true, id_token: false }
   */
  readonly fields?: Readonly<Record<string, boolean>> | undefined
  /** Names of the adapter's own methods, beside those of Auth.js, that neither take nor give accounts. Others are refused. */
  readonly allowMethods?: readonly string[] | undefined
}

const OPTIONS = {
  envelope: true,
  fields: true,
  plaintext: true,
  onUnreadable: true,
  shredOnDelete: true,
  allowMethods: true,
  onEvent: true,
} satisfies Record<keyof EncryptedAdapterOptions, true>

/** The error messages', the contexts' and the events' name of accounts. */
const MODEL = 'account'
const DEFAULT_FIELDS = ['access_token', 'refresh_token', 'id_token']
/** Auth.js looks accounts up by them, or they are numbers. */
const PLAIN_FIELDS = ['id', 'userId', 'type', 'provider', 'providerAccountId', 'expires_at', 'expires_in']

/** Methods of Auth.js that neither take nor give accounts. What they look for by its value stays as it is: tokens of sessions, for one. */
const METHODS_WITHOUT_ACCOUNTS = [
  'createUser',
  'getUser',
  'getUserByEmail',
  'getUserByAccount',
  'updateUser',
  'createSession',
  'getSessionAndUser',
  'updateSession',
  'deleteSession',
  'createVerificationToken',
  'useVerificationToken',
  'getAuthenticator',
  'createAuthenticator',
  'listAuthenticatorsByUserId',
  'updateAuthenticatorCounter',
]

type Account = Readonly<Record<string, unknown>>
type Method = (...args: unknown[]) => unknown

/**
 * Wraps a database adapter of Auth.js, so that the tokens of accounts are encrypted in the database, each for the user of its account, and
 * plaintext in Auth.js. Methods that the adapter lacks stay absent, since Auth.js looks which there are.
 *
 * @param adapter what `DrizzleAdapter(…)`, `PrismaAdapter(…)` … returns
 * @returns what the `adapter` option of Auth.js takes
 * @throws ERR_INVALID_ARGUMENT, also if the adapter has a method that is not known here. Its methods throw like `encrypt` and `decrypt` of the
 *   service, with errors that name the field
 * @example
 * export const { handlers, auth } = NextAuth({
 *   adapter: encryptedAdapter(DrizzleAdapter(db), { envelope }),
 *   providers: [Google],
 * })
 */
export function encryptedAdapter<Adapter extends object>(
  adapter: Adapter,
  options: EncryptedAdapterOptions,
): Adapter {
  if (typeof adapter !== 'object' || adapter === null)
    throw invalidArgument(
      `adapter must be what an adapter of Auth.js returns, such as DrizzleAdapter(…), got ${kindOf(adapter)}`,
    )
  const own = knownOptions(options, OPTIONS, 'encryptedAdapter')
  const { envelope, plaintext = 'pass-through', onUnreadable = 'throw', shredOnDelete = true } = own
  assertShredOnDelete(shredOnDelete)
  const accounts = new Accounts(
    encryptedFields(own.fields),
    new FieldCrypto(envelope, plaintext, onUnreadable),
  )
  // The account is gone, and an error would say that it is not.
  const ofGone = onUnreadable === 'throw' ? 'null' : onUnreadable
  const goneAccounts = new Accounts(accounts.fields, new FieldCrypto(envelope, plaintext, ofGone))

  const methods = methodsOf(adapter, allowedMethods(own.allowMethods))
  const { linkAccount, getAccount, unlinkAccount, deleteUser, getUser } = methods
  if (linkAccount !== undefined)
    methods.linkAccount = async (account) =>
      accounts.decrypted(await linkAccount(await accounts.encrypted(account)))
  if (getAccount !== undefined)
    methods.getAccount = async (...args) => accounts.decrypted(await getAccount(...args))
  if (unlinkAccount !== undefined)
    methods.unlinkAccount = async (...args) => goneAccounts.decrypted(await unlinkAccount(...args))
  if (deleteUser !== undefined && shredOnDelete !== false)
    methods.deleteUser = async (userId) => {
      const deleted = await deleteUser(userId)
      // A user who is still there was not deleted after all: the keys would be gone for good.
      if (getUser === undefined || !(await getUser(userId))) await shred(envelope, userId, shredOnDelete)
      return deleted
    }
  if (plaintext === 'pass-through') eventEmitter(own)({ type: 'plaintextPassThrough' })
  return methods as Adapter
}

/** Encrypts and decrypts the tokens of accounts. */
class Accounts {
  readonly #crypto: FieldCrypto

  constructor(
    readonly fields: readonly string[],
    crypto: FieldCrypto,
  ) {
    this.#crypto = crypto
  }

  /** @throws ERR_INVALID_ARGUMENT unless it is an account */
  async encrypted(account: unknown): Promise<Account> {
    if (!isAccount(account)) throw invalidArgument(`account must be an account, got ${kindOf(account)}`)
    const cells = this.#cellsOf(account)
    return withFields(account, cells, await this.#crypto.encrypt(cells))
  }

  /** @returns null and undefined as they are: there is no account, or the adapter does not give it */
  async decrypted(account: unknown): Promise<unknown> {
    if (!isAccount(account)) return account
    const cells = this.#cellsOf(account)
    return withFields(account, cells, await this.#crypto.decrypt(cells))
  }

  #cellsOf(account: Account): FieldCell[] {
    const present = this.fields.filter((field) => (account[field] ?? null) !== null)
    return present.map((field) => ({
      model: MODEL,
      rowId: rowIdOf(account),
      field,
      value: account[field],
      context: { column: `${MODEL}.${field}` },
      owner: ownerOf(account),
    }))
  }
}

function isAccount(account: unknown): account is Account {
  return typeof account === 'object' && account !== null
}

/** @throws ERR_INVALID_ARGUMENT: an account without a user has no key */
function ownerOf({ userId }: Account): string {
  if (typeof userId === 'string' && userId !== '') return userId
  if (typeof userId === 'bigint' || Number.isSafeInteger(userId)) return String(userId)
  throw invalidArgument(`${MODEL}.userId must name the user whose the account is, got ${kindOf(userId)}`)
}

function withFields(account: Account, cells: readonly FieldCell[], values: readonly unknown[]): Account {
  return { ...account, ...Object.fromEntries(cells.map(({ field }, at) => [field, values[at]])) }
}

function encryptedFields(given: EncryptedAdapterOptions['fields'] = {}): readonly string[] {
  const fields = new Set(DEFAULT_FIELDS)
  for (const [field, isEncrypted] of Object.entries(ownOptions(given, 'fields'))) {
    if (typeof isEncrypted !== 'boolean')
      throw invalidArgument(`fields.${field} must be true or false, got ${kindOf(isEncrypted)}`)
    if (PLAIN_FIELDS.includes(field))
      throw invalidArgument(
        `fields: ${quoted(field)} cannot be encrypted: it is no secret text, but looked up`,
      )
    if (isEncrypted) fields.add(field)
    else if (!fields.delete(field))
      throw invalidArgument(
        `fields: ${quoted(field)} is not encrypted anyway. By default these are: ${DEFAULT_FIELDS.join(', ')}`,
      )
  }
  return [...fields]
}

function allowedMethods(given: unknown = []): readonly string[] {
  if (Array.isArray(given) && given.every((name) => typeof name === 'string')) return given
  throw invalidArgument(`allowMethods must be a list of names, got ${kindOf(given)}`)
}

/** As Auth.js takes them: own properties alone. What is no function is left as it is. */
function methodsOf(adapter: object, allowed: readonly string[]): Record<string, Method | undefined> {
  const known = [...METHODS_WITHOUT_ACCOUNTS, 'linkAccount', 'unlinkAccount', 'getAccount', 'deleteUser']
  const entries = Object.entries(adapter).map(([name, value]: [string, unknown]) => {
    if (typeof value !== 'function') return [name, value]
    if (!known.includes(name) && !allowed.includes(name))
      throw invalidArgument(
        `The adapter has a method ${quoted(name)}, which may carry accounts past the encryption. If it does not, name it in allowMethods`,
      )
    return [name, (...args: unknown[]) => value.apply(adapter, args)]
  })
  return Object.fromEntries(entries)
}

async function shred(envelope: EnvelopeCrypto, userId: unknown, mode: true | 'forget'): Promise<void> {
  try {
    await envelope.shredUser(String(userId), { forget: mode === 'forget' })
  } catch (error) {
    throw new KeystoreError(
      isKeystoreError(error) ? error.code : 'ERR_STORE',
      `User ${quoted(String(userId))} was deleted, but the user's keys were not erased: call deleteUser again, or envelope.shredUser`,
      isKeystoreError(error) ? { cause: error } : {},
    )
  }
}
