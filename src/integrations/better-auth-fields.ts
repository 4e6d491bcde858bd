/** Which of Better Auth's fields are encrypted, for whom, and under which contexts. */
import { invalidArgument, quoted } from '../errors.js'
import type { EncryptionContext } from '../format/context.js'
import { kindOf, knownOptions, nameAdvice, ownOptions } from '../validate.js'
import {
  type AuthModel,
  type AuthSchema,
  type FieldAttributes,
  referencesUser,
} from './better-auth-schema.js'

/** Fields of one model, and whose they are. */
export interface EncryptedModelOptions {
  /** By Better Auth's own names. */
  readonly fields: readonly string[]
  /** The field with the user's id. Default: the only field that references a user. */
  readonly owner?: string | undefined
  /**
   * Whether values of rows without an owner belong to the shared pool, whose key opens them for everybody. Default false: they are refused.
   * A model without a field that names a user needs it.
   */
  readonly pool?: boolean | undefined
}

/** By Better Auth's own names of the models. A list is short for `{ fields }`. False: nothing of the model is encrypted. */
export type BetterAuthFields = Readonly<Record<string, readonly string[] | EncryptedModelOptions | false>>

/** What is encrypted unless `fields` says otherwise. Models of plugins that are not in use are left out. */
const DEFAULT_FIELDS: BetterAuthFields = {
  account: { fields: ['accessToken', 'refreshToken', 'idToken'], owner: 'userId' },
  verification: { fields: ['value'], pool: true },
  twoFactor: { fields: ['secret', 'backupCodes'], owner: 'userId' },
  jwks: { fields: ['privateKey'], pool: true },
  ssoProvider: { fields: ['oidcConfig', 'samlConfig'], owner: 'userId', pool: true },
}

/** A model with encrypted fields. */
export interface EncryptedModel {
  readonly model: AuthModel
  /** The context of each field. It is permanent: no name in the database is part of it. */
  readonly fields: ReadonlyMap<string, EncryptionContext>
  /** The field with the user's id; null: all values belong to the pool. */
  readonly owner: string | null
  /** Whether values of rows without an owner belong to the pool. */
  readonly pool: boolean
}

const MODEL_OPTIONS = { fields: true, owner: true, pool: true } satisfies Record<
  keyof EncryptedModelOptions,
  true
>

/**
 * Checks the list against the data model.
 *
 * @returns by Better Auth's own name of the model
 * @throws ERR_INVALID_ARGUMENT if a model or a field is not there, or cannot be encrypted, or nobody owns it
 */
export function encryptedModels(
  schema: AuthSchema,
  given: BetterAuthFields = {},
): ReadonlyMap<string, EncryptedModel> {
  const fields = ownOptions(given, 'fields')
  const encrypted = new Map<string, EncryptedModel>()
  for (const [name, options] of Object.entries({ ...DEFAULT_FIELDS, ...fields })) {
    if (options === false || options === undefined) continue
    const model = schema.models.get(name)
    if (model !== undefined) encrypted.set(name, encryptedModel(schema, model, options))
    else if (Object.hasOwn(fields, name)) throw unknownModel(schema, name)
  }
  return encrypted
}

function unknownModel(schema: AuthSchema, name: string) {
  const known = [...schema.models.keys()]
  const renamed = schema.model(name)
  const advice =
    renamed === undefined
      ? nameAdvice(name, known)
      : `use Better Auth's own name of it, ${renamed.name}: contexts are made of that`
  return invalidArgument(`fields: Better Auth has no model ${quoted(name)} with these options: ${advice}`)
}

function encryptedModel(
  schema: AuthSchema,
  model: AuthModel,
  options: readonly string[] | EncryptedModelOptions,
): EncryptedModel {
  const what = `fields.${model.name}`
  const own: EncryptedModelOptions = Array.isArray(options)
    ? { ...defaultsOf(model), fields: options }
    : knownOptions(options as EncryptedModelOptions, MODEL_OPTIONS, what, what)
  if (!Array.isArray(own.fields)) throw invalidArgument(`${what} must list fields, got ${kindOf(own.fields)}`)
  const { pool = false } = own
  if (typeof pool !== 'boolean') throw invalidArgument(`${what}.pool must be a boolean, got ${kindOf(pool)}`)
  const owner = ownerField(schema, model, own)
  const contexts = new Map<string, EncryptionContext>()
  for (const field of own.fields) {
    const problem = field === owner ? 'it is the owner' : problemOf(existing(model, field))
    if (problem !== null) throw invalidArgument(`${model.name}.${field} cannot be encrypted: ${problem}`)
    contexts.set(field, Object.freeze({ column: `${model.name}.${field}` }))
  }
  return { model, fields: contexts, owner, pool }
}

function defaultsOf({ name }: AuthModel): Partial<EncryptedModelOptions> {
  return (Object.hasOwn(DEFAULT_FIELDS, name) ? DEFAULT_FIELDS[name] : {}) as Partial<EncryptedModelOptions>
}

function ownerField(
  schema: AuthSchema,
  model: AuthModel,
  { owner, pool }: EncryptedModelOptions,
): string | null {
  if (owner === 'id')
    throw invalidArgument(
      `fields.${model.name}.owner cannot be id: Better Auth makes it while it writes the row, after its values are encrypted`,
    )
  if (owner !== undefined) {
    existing(model, owner)
    return owner
  }
  if (pool) return null
  const users = [...model.fields].filter(([, attributes]) => referencesUser(schema, attributes))
  if (users.length === 1 && users[0] !== undefined) return users[0][0]
  throw invalidArgument(
    `fields.${model.name} needs \`owner\`, the field with the user's id, or \`pool: true\` if its values belong to no user`,
  )
}

/** @throws ERR_INVALID_ARGUMENT with the most similar name */
function existing({ name, fields }: AuthModel, field: unknown): FieldAttributes {
  const attributes = typeof field === 'string' ? fields.get(field) : undefined
  if (attributes !== undefined) return attributes
  if (typeof field !== 'string')
    throw invalidArgument(`fields.${name} must list names of fields, got ${kindOf(field)}`)
  throw invalidArgument(
    `fields: ${quoted(field)} is no field of ${name}: ${nameAdvice(field, [...fields.keys()])}`,
  )
}

/**
 * Why a field cannot hold tokens; null if it can. Better Auth's adapters apply defaults and transforms after a value was encrypted: a
 * default would be stored as plaintext, and a transform would change a token.
 */
function problemOf({ type, unique, references, transform, defaultValue, onUpdate }: FieldAttributes) {
  if (type !== 'string')
    return `its type is ${Array.isArray(type) ? 'a list of texts' : String(type)}, not string`
  if (unique) return 'it is unique, and two tokens of one value differ'
  if (references !== undefined) return 'it is a foreign key'
  if (transform?.input !== undefined || transform?.output !== undefined)
    return 'its `transform` would change tokens'
  if (defaultValue !== undefined && defaultValue !== null)
    return 'its `defaultValue` would be stored as plaintext: set it in a hook, databaseHooks'
  if (onUpdate !== undefined)
    return 'its `onUpdate` would be stored as plaintext: set it in a hook, databaseHooks'
  return null
}
