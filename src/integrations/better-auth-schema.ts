/**
 * Better Auth's data model as its options declare it: models, their fields, and the names that both have in the database.
 *
 * It is what `getAuthTables` of better-auth makes of the same options. That function is not called, since the library is no dependency: a
 * test compares the two.
 */

/**
 * Options of `betterAuth`, as far as they declare the data model. `object &`: TypeScript would refuse options that name none of the properties
 * below, such as `{ deleteUser }` (weak types, TypeScript 2.4).
 */
export interface AuthOptions {
  /** Says nothing of the model, but every Better Auth has it. */
  readonly database?: unknown
  readonly user?: CoreModelOptions | undefined
  readonly session?:
    | (CoreModelOptions & { readonly storeSessionInDatabase?: boolean | undefined })
    | undefined
  readonly account?: CoreModelOptions | undefined
  readonly verification?: (CoreModelOptions & { readonly storeInDatabase?: boolean | undefined }) | undefined
  readonly secondaryStorage?: unknown
  readonly plugins?: readonly PluginOptions[] | undefined
}

type PluginOptions = object & { readonly schema?: Readonly<Record<string, PluginModel>> | undefined }

type CoreModelOptions = object & {
  readonly modelName?: string | undefined
  readonly fields?: Readonly<Record<string, string | undefined>> | undefined
  readonly additionalFields?: Readonly<Record<string, FieldAttributes>> | undefined
}

interface PluginModel {
  readonly modelName?: string | undefined
  readonly fields: Readonly<Record<string, FieldAttributes>>
}

/** What a field's declaration says. */
export interface FieldAttributes {
  readonly type?: unknown
  readonly fieldName?: string | undefined
  readonly unique?: boolean | undefined
  readonly references?: { readonly model: string; readonly field: string } | undefined
  readonly transform?: { readonly input?: unknown; readonly output?: unknown } | undefined
  readonly defaultValue?: unknown
  readonly onUpdate?: unknown
}

export interface AuthModel {
  /** Better Auth's own name, such as `account`. */
  readonly name: string
  /** Its name in the database, such as `oauth_accounts`. Better Auth may use either. */
  readonly storedName: string
  /** By Better Auth's own name of the field. */
  readonly fields: ReadonlyMap<string, FieldAttributes>
}

const text: FieldAttributes = { type: 'string' }
const uniqueText: FieldAttributes = { type: 'string', unique: true }
const date: FieldAttributes = { type: 'date' }
const userReference: FieldAttributes = { type: 'string', references: { model: 'user', field: 'id' } }
const times = { createdAt: date, updatedAt: date }

/** The models that need no plugin. */
const CORE_MODELS: Readonly<Record<CoreModel, Readonly<Record<string, FieldAttributes>>>> = {
  user: { name: text, email: uniqueText, emailVerified: { type: 'boolean' }, image: text, ...times },
  session: {
    expiresAt: date,
    token: uniqueText,
    ...times,
    ipAddress: text,
    userAgent: text,
    userId: userReference,
  },
  account: {
    accountId: text,
    providerId: text,
    userId: userReference,
    accessToken: text,
    refreshToken: text,
    idToken: text,
    accessTokenExpiresAt: date,
    refreshTokenExpiresAt: date,
    scope: text,
    password: text,
    ...times,
  },
  verification: { identifier: text, value: text, expiresAt: date, ...times },
}
type CoreModel = 'user' | 'session' | 'account' | 'verification'

/** The data model that options declare. */
export class AuthSchema {
  readonly models: ReadonlyMap<string, AuthModel>
  readonly #usePlural: boolean

  /** @param usePlural the adapter's option: names in the database end with an `s` */
  constructor(options: AuthOptions, usePlural: boolean) {
    this.#usePlural = usePlural
    const models = new Map<string, AuthModel>()
    const ofPlugins = pluginModels(options)
    for (const name of Object.keys(CORE_MODELS) as CoreModel[]) {
      if (isStored(name, options)) models.set(name, coreModel(name, options[name] ?? {}, ofPlugins.get(name)))
    }
    for (const [name, { modelName, fields }] of ofPlugins) {
      if (Object.hasOwn(CORE_MODELS, name)) continue
      models.set(name, { name, storedName: modelName || name, fields: new Map(Object.entries(fields)) })
    }
    this.models = models
  }

  /** The model that goes by a name, its own or that in the database. Undefined: there is none. */
  model(name: string): AuthModel | undefined {
    const singular = this.#usePlural && name.endsWith('s') ? this.#named(name.slice(0, -1)) : undefined
    return singular ?? this.#named(name)
  }

  /** The name of its table, as adapters use it. */
  tableName({ storedName }: AuthModel): string {
    return this.#usePlural ? `${storedName}s` : storedName
  }

  #named(name: string): AuthModel | undefined {
    return this.models.get(name) ?? [...this.models.values()].find(({ storedName }) => storedName === name)
  }
}

/** The name of a field in the database. */
export function storedFieldName(model: AuthModel, field: string): string {
  return model.fields.get(field)?.fieldName || field
}

/** Better Auth's own name of a field, which conditions may name as the database does. */
export function ownFieldName({ fields }: AuthModel, field: string): string {
  if (fields.has(field)) return field
  for (const [name, { fieldName }] of fields) if (fieldName === field) return name
  return field
}

/** Whether a field holds the id of a user. */
export function referencesUser(schema: AuthSchema, { references }: FieldAttributes): boolean {
  return references?.field === 'id' && schema.model(references.model)?.name === 'user'
}

function pluginModels({ plugins = [] }: AuthOptions): Map<string, PluginModel> {
  const models = new Map<string, PluginModel>()
  for (const { schema } of plugins) {
    for (const [name, { modelName, fields }] of Object.entries(schema ?? {}))
      models.set(name, { modelName, fields: { ...models.get(name)?.fields, ...fields } })
  }
  return models
}

function coreModel(
  name: CoreModel,
  { modelName, fields: names = {}, additionalFields }: CoreModelOptions,
  ofPlugins: PluginModel | undefined,
): AuthModel {
  const own = Object.entries(CORE_MODELS[name]).map(
    ([field, attributes]) => [field, { ...attributes, fieldName: names[field] || field }] as const,
  )
  const fields = { ...Object.fromEntries(own), ...ofPlugins?.fields, ...additionalFields }
  return { name, storedName: modelName || name, fields: new Map(Object.entries(fields)) }
}

/** With a secondary storage, sessions and verifications are not in the database unless the options say so. */
function isStored(name: CoreModel, { secondaryStorage, session, verification }: AuthOptions): boolean {
  if (!secondaryStorage) return true
  if (name === 'session') return session?.storeSessionInDatabase === true
  return name !== 'verification' || verification?.storeInDatabase === true
}
