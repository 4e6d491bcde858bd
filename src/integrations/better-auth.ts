/**
 * Better Auth. Exported as `drizzle-keystore/better-auth`.
 *
 * Its database adapter is wrapped, since only there each write has its row: at a sign-up no scope could be open yet. The library is taken by
 * its shape, whatever ORM is below, and no package of it is loaded.
 */
import { invalidArgument } from '../errors.js'
import { eventEmitter } from '../events.js'
import { kindOf, knownOptions } from '../validate.js'
import { type AdapterOptions, assertShredOnDelete } from './adapter-options.js'
import { encryptInPlace } from './better-auth-adapter.js'
import { type BetterAuthFields, encryptedModels } from './better-auth-fields.js'
import { type AuthOptions, AuthSchema, storedFieldName } from './better-auth-schema.js'
import type { AuthAdapter } from './better-auth-shapes.js'
import { UserShredder } from './better-auth-users.js'
import { FieldCrypto } from './field-crypto.js'

export type { ShredOnDelete } from './adapter-options.js'
export type { BetterAuthFields, EncryptedModelOptions } from './better-auth-fields.js'
export type { AuthOptions } from './better-auth-schema.js'
export type { OnUnreadable, StoredPlaintext, UnreadableField } from './field-crypto.js'

/** The options of {@link encryptedAdapter}. */
export interface EncryptedAdapterOptions extends AdapterOptions {
  /**
   * Which fields are encrypted, by model. A model that is named here has the fields that are named here; others keep their default:
   * `accessToken`, `refreshToken` and `idToken` of `account`, `value` of `verification`, `secret` and `backupCodes` of `twoFactor`,
   * `privateKey` of `jwks`, `oidcConfig` and `samlConfig` of `ssoProvider`.
   *
   * @example { verification: false, integration: { fields: ['apiKey'], owner: 'userId' } }
   */
  readonly fields?: BetterAuthFields | undefined
}

const OPTIONS = {
  envelope: true,
  fields: true,
  plaintext: true,
  onUnreadable: true,
  shredOnDelete: true,
  onEvent: true,
} satisfies Record<keyof EncryptedAdapterOptions, true>

/**
 * Wraps a database adapter of Better Auth, so that secrets are tokens in the database and plaintext in Better Auth. Each is encrypted for the
 * user whom its row belongs to. The list of fields is checked when Better Auth starts.
 *
 * @param adapter what `drizzleAdapter(…)`, `prismaAdapter(…)`, `kyselyAdapter(…)` … returns
 * @returns what the `database` option of `betterAuth` takes
 * @throws ERR_INVALID_ARGUMENT, and so does the returned function
 * @example
 * const auth = betterAuth({
 *   database: encryptedAdapter(drizzleAdapter(db, { provider: 'pg', schema }), { envelope }),
 * })
 */
export function encryptedAdapter<Adapter extends (options: never) => object>(
  adapter: Adapter,
  options: EncryptedAdapterOptions,
): Adapter {
  if (typeof adapter !== 'function')
    throw invalidArgument(
      `adapter must be what an adapter of Better Auth returns, such as drizzleAdapter(…), got ${kindOf(adapter)}`,
    )
  const own = knownOptions(options, OPTIONS, 'encryptedAdapter')
  const { envelope, fields, plaintext = 'pass-through', onUnreadable = 'throw', shredOnDelete = true } = own
  assertShredOnDelete(shredOnDelete)
  const fieldCrypto = new FieldCrypto(envelope, plaintext, onUnreadable)
  const shredder = new UserShredder(envelope, shredOnDelete)
  const emit = eventEmitter(own)
  const encrypted = (authOptions: AuthOptions): AuthAdapter => {
    const instance = (adapter as unknown as (options: AuthOptions) => AuthAdapter)(authOptions)
    const schema = new AuthSchema(authOptions, isPlural(instance))
    encryptInPlace(instance, { schema, encrypted: encryptedModels(schema, fields), fieldCrypto }, shredder)
    if (plaintext === 'pass-through') emit({ type: 'plaintextPassThrough' })
    return instance
  }
  return encrypted as unknown as Adapter
}

/** A table with encrypted columns, for a source of the sweep. */
export interface BetterAuthTable {
  /** Better Auth's own name of the model. */
  readonly model: string
  /** Its name in the database, and in the `schema` that drizzleAdapter is given. */
  readonly table: string
  readonly key: 'id'
  /** The column with the user's id; null: all values belong to the pool. */
  readonly owner: string | null
  readonly pool: boolean
  /** The context of each column. */
  readonly columns: Readonly<Record<string, string>>
}

/**
 * Lists the columns that {@link encryptedAdapter} encrypts, with the options of `drizzleSource` and of `defineEncrypted` for each table.
 *
 * @param authOptions those of `betterAuth`: `auth.options`
 * @param options `fields` as in {@link encryptedAdapter}; `usePlural` as in the adapter below
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const tables = betterAuthColumns(auth.options).map(({ model, table, ...columns }) => [model, { table: schema[table], ...columns }])
 * export const encrypted = defineEncrypted(Object.fromEntries(tables))
 */
export function betterAuthColumns(
  authOptions: AuthOptions,
  options: { readonly fields?: BetterAuthFields | undefined; readonly usePlural?: boolean | undefined } = {},
): BetterAuthTable[] {
  const known = { fields: true, usePlural: true } as const
  const { fields, usePlural = false } = knownOptions(options, known, 'betterAuthColumns')
  const schema = new AuthSchema(authOptions, usePlural)
  return Array.from(encryptedModels(schema, fields).values(), ({ model, owner, pool, fields }) => ({
    model: model.name,
    table: schema.tableName(model),
    key: 'id',
    owner: owner === null ? null : storedFieldName(model, owner),
    pool: pool || owner === null,
    columns: Object.fromEntries(
      Array.from(fields.keys(), (field) => [storedFieldName(model, field), `${model.name}.${field}`]),
    ),
  }))
}

/** @throws ERR_INVALID_ARGUMENT if it is no adapter */
function isPlural(instance: unknown): boolean {
  const { findMany, options } = (instance ?? {}) as Partial<AuthAdapter>
  if (typeof findMany !== 'function')
    throw invalidArgument(
      `adapter must be a function that returns an adapter of Better Auth, and it returned ${kindOf(instance)}`,
    )
  return options?.adapterConfig?.usePlural === true
}
