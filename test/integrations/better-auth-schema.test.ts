/** The list of encrypted fields, and the data model that it is checked against. */
import type { BetterAuthOptions } from 'better-auth'
import { getAuthTables } from 'better-auth/db'
import {
  admin,
  anonymous,
  deviceAuthorization,
  jwt,
  organization,
  phoneNumber,
  siwe,
  twoFactor,
  username,
} from 'better-auth/plugins'
import { describe, expect, it } from 'vitest'
import {
  type BetterAuthFields,
  betterAuthColumns,
  encryptedAdapter,
} from '../../src/integrations/better-auth.js'
import { AuthSchema } from '../../src/integrations/better-auth-schema.js'
import { freshService } from '../support/fresh-store.js'

const field = (type: string, more: object = {}) => ({ type, required: false, ...more }) as never
const integrations = {
  id: 'integrations',
  schema: {
    integration: {
      modelName: 'integrations',
      fields: {
        apiKey: field('string', { fieldName: 'api_key' }),
        createdBy: field('string', { fieldName: 'created_by', references: { model: 'user', field: 'id' } }),
        label: field('string', { defaultValue: 'none' }),
        changed: field('string', { onUpdate: () => 'x' }),
        lower: field('string', { transform: { input: (value: unknown) => value } }),
        code: field('string', { unique: true }),
        settings: field('json'),
        many: field('string[]'),
      },
    },
    shared: { fields: { secret: field('string') } },
    twice: {
      fields: {
        from: field('string', { references: { model: 'user', field: 'id' } }),
        to: field('string', { references: { model: 'user', field: 'id' } }),
        note: field('string'),
      },
    },
  },
}
const sso = {
  id: 'sso',
  schema: {
    ssoProvider: {
      fields: {
        issuer: field('string'),
        oidcConfig: field('string'),
        samlConfig: field('string'),
        userId: field('string', { references: { model: 'user', field: 'id' } }),
      },
    },
  },
}

const everything: BetterAuthOptions = {
  user: { modelName: 'people', additionalFields: { nickname: { type: 'string', fieldName: 'nick' } } },
  account: { modelName: 'oauth_accounts', fields: { accessToken: 'access_token', userId: 'user_id' } },
  verification: { fields: { value: 'secret_value' } },
  plugins: [
    admin(),
    anonymous(),
    deviceAuthorization({ expiresIn: '5min', interval: '5s' }),
    jwt(),
    organization({ teams: { enabled: true } }),
    phoneNumber(),
    siwe({ domain: 'example.com', getNonce: async () => 'x', verifyMessage: async () => true }),
    twoFactor(),
    username(),
    integrations,
    sso,
  ],
}

describe('the data model', () => {
  it.each([
    ['as it is', {}],
    ['with other names, additional fields and plugins', everything],
    ['with a secondary storage', { secondaryStorage: {} as never }],
    [
      'with a secondary storage and the database',
      {
        secondaryStorage: {} as never,
        session: { storeSessionInDatabase: true },
        verification: { storeInDatabase: true },
      },
    ],
  ] satisfies [string, BetterAuthOptions][])('is that of Better Auth %s', (_, options) => {
    const told = (
      fields: Iterable<
        [
          string,
          {
            type?: unknown
            fieldName?: string | undefined
            unique?: boolean | undefined
            references?: { model: string } | undefined
          },
        ]
      >,
    ) =>
      Object.fromEntries(
        Array.from(fields, ([name, { type, fieldName, unique = false, references }]) => [
          name,
          { type, name: fieldName || name, unique, references: references?.model },
        ]),
      )
    const expected = Object.entries(getAuthTables(options)).map(([name, { modelName, fields }]) => [
      name,
      { storedName: modelName, fields: told(Object.entries(fields)) },
    ])
    const { models } = new AuthSchema(options as never, false)
    const ours = Array.from(models, ([name, { storedName, fields }]) => [
      name,
      { storedName, fields: told(fields) },
    ])
    expect(Object.fromEntries(ours)).toEqual(Object.fromEntries(expected))
  })
})

describe('the list of fields', () => {
  it('has the secrets of Better Auth by default, and leaves out models of plugins that are not in use', () => {
    expect(betterAuthColumns({})).toEqual([
      {
        model: 'account',
        table: 'account',
        key: 'id',
        owner: 'userId',
        pool: false,
        columns: {
          accessToken: 'account.accessToken',
          refreshToken: 'account.refreshToken',
          idToken: 'account.idToken',
        },
      },
      {
        model: 'verification',
        table: 'verification',
        key: 'id',
        owner: null,
        pool: true,
        columns: { value: 'verification.value' },
      },
    ])
  })

  it('goes by the names in the database, while contexts keep those of Better Auth', () => {
    const tables = betterAuthColumns(everything as never, {
      usePlural: true,
      fields: { integration: ['apiKey'], shared: { fields: ['secret'], pool: true } },
    })
    expect(tables.map(({ model }) => model)).toEqual([
      'account',
      'verification',
      'twoFactor',
      'jwks',
      'ssoProvider',
      'integration',
      'shared',
    ])
    expect(tables[0]).toMatchObject({
      table: 'oauth_accountss',
      owner: 'user_id',
      columns: { access_token: 'account.accessToken', idToken: 'account.idToken' },
    })
    expect(tables.find(({ model }) => model === 'ssoProvider')).toMatchObject({ owner: 'userId', pool: true })
    expect(tables.find(({ model }) => model === 'integration')).toEqual({
      model: 'integration',
      table: 'integrationss',
      key: 'id',
      owner: 'created_by',
      pool: false,
      columns: { api_key: 'integration.apiKey' },
    })
  })

  it('can be narrowed, and a model left out', () => {
    const fields = { account: ['refreshToken'], verification: false } as const
    expect(betterAuthColumns({}, { fields })).toMatchObject([
      { model: 'account', owner: 'userId', columns: { refreshToken: 'account.refreshToken' } },
    ])
  })

  it.each<[string, BetterAuthFields, string]>([
    ['a misspelt field', { account: ['acessToken'] }, 'did you mean accessToken?'],
    ['a misspelt model', { acount: ['accessToken'] }, 'did you mean account?'],
    ['the name of a model in the database', { oauth_accounts: ['accessToken'] }, 'own name of it, account'],
    ['the name of a field in the database', { account: ['access_token'] }, 'did you mean accessToken?'],
    [
      'a model of a plugin that is not in use, when it is named',
      { passkey: ['publicKey'] },
      'no model "passkey"',
    ],
    ['a misspelt owner', { account: { fields: ['idToken'], owner: 'userID' } }, 'did you mean userId?'],
    ['the owner itself', { account: { fields: ['userId'], owner: 'userId' } }, 'it is the owner'],
    ['values that nobody owns', { shared: ['secret'] }, '`pool: true`'],
    ['values that two users might own', { twice: ['note'] }, 'needs `owner`'],
    ['an id that is made too late', { user: { fields: ['nickname'], owner: 'id' } }, 'cannot be id'],
    ['a default, which would be stored as plaintext', { integration: ['label'] }, '`defaultValue`'],
    ['what is set on update, likewise', { integration: ['changed'] }, '`onUpdate`'],
    ['a transform, which would change tokens', { integration: ['lower'] }, '`transform`'],
    ['a unique field', { integration: ['code'] }, 'unique'],
    ['JSON', { integration: ['settings'] }, 'its type is json'],
    ['a list', { integration: ['many'] }, 'its type is string[]'],
    ['a date', { account: ['createdAt'] }, 'its type is date'],
    ['the token of a session, by which sessions are found', { session: ['token'] }, 'unique'],
    ['what is no list', { account: 'accessToken' as never }, 'must be an object'],
    [
      'an unknown option of a model',
      { account: { fields: [], owners: 'userId' } as never },
      'did you mean owner?',
    ],
  ])('refuses %s', (_, fields, message) => {
    expect(() => betterAuthColumns(everything as never, { fields })).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT', message: expect.stringContaining(message) }),
    )
  })
})

describe('encryptedAdapter', () => {
  const adapter = () => ({ id: 'x', findMany: async () => [] })

  it.each<[string, unknown, object, string]>([
    ['an adapter that was called already', adapter(), {}, 'adapter must be'],
    ['no envelope', adapter, { envelope: undefined }, 'envelope must be'],
    ['an unknown option', adapter, { field: {} }, 'did you mean fields?'],
    ['an unknown policy for plaintext', adapter, { plaintext: 'allow' }, "plaintext must be 'reject'"],
    ['an unknown choice for what is unreadable', adapter, { onUnreadable: 'skip' }, 'onUnreadable must be'],
    ['an unknown choice for shredding', adapter, { shredOnDelete: 'yes' }, 'shredOnDelete must be'],
  ])('refuses %s at once', async (_, given, options, message) => {
    await using envelope = await freshService()
    expect(() => encryptedAdapter(given as never, { envelope, ...options } as never)).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT', message: expect.stringContaining(message) }),
    )
  })

  it('refuses, when Better Auth starts, a list that does not fit and what is no adapter', async () => {
    await using envelope = await freshService()
    const start = (made: unknown, fields: BetterAuthFields = {}) =>
      (encryptedAdapter((() => made) as () => object, { envelope, fields }) as (options: object) => object)(
        {},
      )
    expect(() => start(adapter(), { account: ['acessToken'] })).toThrow('did you mean accessToken?')
    expect(() => start({ dialect: 'x' })).toThrow('it returned an object')
    expect(() => start(undefined)).toThrow('it returned undefined')
  })

  it('says in an event that plaintext passes through, unless it is rejected', async () => {
    await using envelope = await freshService()
    const events: string[] = []
    const onEvent = ({ type }: { type: string }) => void events.push(type)
    const start = (options: object) =>
      (
        encryptedAdapter(adapter, { envelope, onEvent, ...options }) as unknown as (options: object) => object
      )({})
    start({ plaintext: 'reject' })
    expect(events).toEqual([])
    start({})
    expect(events).toEqual(['plaintextPassThrough'])
  })
})
