/** Auth.js itself over an encrypting adapter, with users of an OpenID provider: what it can do, and what is in its database. */
import { inspect } from 'node:util'
import type { Adapter, AdapterAccount } from '@auth/core/adapters'
import { describe, expect, it } from 'vitest'
import type { KeystoreEvent } from '../../src/index.js'
import { type EncryptedAdapterOptions, encryptedAdapter } from '../../src/integrations/auth-js.js'
import { drizzleSource, reencrypt } from '../../src/reencrypt/index.js'
import { AuthJsApp, authJsDatabase } from '../support/auth-js.js'
import { dialects } from '../support/databases.js'
import { ofEachTest } from '../support/each-test.js'
import { errorOf } from '../support/errors.js'
import { freshService } from '../support/fresh-store.js'
import { startOAuthProvider } from '../support/oauth-provider.js'

const TOKEN = /^v3:[\w-]{102,}$/
const FIELDS = ['access_token', 'refresh_token', 'id_token'] as const
const REFUSED = { code: 'ERR_INVALID_ARGUMENT' }

describe.each(dialects)('Auth.js on %s', (dialect) => {
  const database = ofEachTest(() => authJsDatabase(dialect))
  const provider = ofEachTest(startOAuthProvider)
  const envelope = ofEachTest(async () => {
    const service = await freshService(database.url)
    return Object.assign(service, { remove: () => service.close() })
  })
  const adapterWith = (options: Partial<EncryptedAdapterOptions> = {}) =>
    encryptedAdapter(database.adapter, { envelope, plaintext: 'reject', ...options }) as Required<Adapter>
  const appWith = (options?: Partial<EncryptedAdapterOptions>) =>
    new AuthJsApp(adapterWith(options), provider, ['provider', 'other'])

  const accounts = () => database.query('select * from account order by provider')
  async function expectHidden() {
    const content = await database.content()
    expect(content).toContain('v3:')
    expect(provider.issued.length).toBeGreaterThan(0)
    for (const secret of provider.issued) expect(content).not.toContain(secret)
  }
  /** A user with an account whose tokens are stored as they are. */
  async function addPlain(tokens: Partial<AdapterAccount>) {
    const user = await database.adapter.createUser?.({
      id: 'ignored',
      email: 'old@example.com',
      emailVerified: null,
    })
    const account = {
      userId: user?.id as string,
      type: 'oidc' as const,
      provider: 'provider',
      providerAccountId: 'old',
    }
    await database.adapter.linkAccount?.({ ...account, ...tokens })
    return account.userId
  }

  it('signs up and signs in again, while no token of the provider is ever in the database', async () => {
    const app = appWith()
    expect(await app.signInWith('provider')).toMatch(/\/done$/)
    expect(await app.whoIsSignedIn()).toBe('alice@example.com')
    const { accessToken, refreshToken, idToken } = provider.last
    const plain = { access_token: accessToken, refresh_token: refreshToken, id_token: idToken }
    const [account = {}] = await accounts()
    for (const field of FIELDS) {
      expect(account[field]).toMatch(TOKEN)
      const context = { column: `account.${field}` }
      expect(await envelope.decrypt(String(account.userId), String(account[field]), context)).toBe(
        plain[field],
      )
    }
    const byId = () => adapterWith().getAccount('alice-at-provider', 'provider')
    expect(await byId()).toEqual({ ...account, ...plain })

    app.clear()
    expect(await app.whoIsSignedIn()).toBeNull()
    expect(await app.signInWith('provider')).toMatch(/\/done$/)
    expect(await app.whoIsSignedIn()).toBe('alice@example.com')
    expect(await accounts()).toEqual([account])
    expect(app.errors).toEqual([])
    await expectHidden()
  })

  it('links another account to who is signed in, and unlinks it', async () => {
    const app = appWith()
    await app.signInWith('provider')
    expect(await app.signInWith('other')).toMatch(/\/done$/)
    const [other, first] = await accounts()
    expect([other?.provider, first?.provider]).toEqual(['other', 'provider'])
    expect(other?.userId).toBe(first?.userId)
    const { getAccount, unlinkAccount } = adapterWith()
    expect(await getAccount('alice-at-provider', 'other')).toMatchObject({
      access_token: provider.last.accessToken,
    })
    await unlinkAccount({ provider: 'other', providerAccountId: 'alice-at-provider' })
    expect(await accounts()).toEqual([first])
    expect(await getAccount('alice-at-provider', 'other')).toBeNull()
    expect(app.errors).toEqual([])
    await expectHidden()
  })

  it('shreds a user who is deleted, and nobody else', async () => {
    const app = appWith()
    await app.signInWith('provider')
    const [ofAlice] = await accounts()
    app.clear()
    provider.becomes('bob')
    await app.signInWith('provider')
    const adapter = adapterWith()
    await adapter.deleteUser(String(ofAlice?.userId))
    const opened = errorOf(
      envelope.decrypt(String(ofAlice?.userId), String(ofAlice?.access_token), {
        column: 'account.access_token',
      }),
    )
    expect(await opened).toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    expect(await adapter.getAccount('alice-at-provider', 'provider')).toBeNull()
    expect(await adapter.getAccount('bob-at-provider', 'provider')).toMatchObject({
      access_token: provider.last.accessToken,
    })
  })

  it('keeps the keys of a user who is still there, or if it is told to', async () => {
    await appWith().signInWith('provider')
    const [account] = await accounts()
    const userId = String(account?.userId)
    const read = () =>
      envelope.decrypt(userId, String(account?.access_token), { column: 'account.access_token' })
    const idle = { ...database.adapter, deleteUser: async () => undefined }
    await (encryptedAdapter(idle, { envelope }) as Required<Adapter>).deleteUser(userId)
    expect(await read()).toBe(provider.last.accessToken)
    await adapterWith({ shredOnDelete: false }).deleteUser(userId)
    expect(await read()).toBe(provider.last.accessToken)
    expect(await accounts()).toEqual([])
    // Again, since the keys were not erased.
    await adapterWith().deleteUser(userId)
    expect(await errorOf(read())).toMatchObject({ code: 'ERR_KEY_SHREDDED' })
  })

  it('stores nothing in plaintext if it cannot encrypt', async () => {
    const app = appWith()
    await envelope.close()
    expect(await app.signInWith('provider')).toContain('error=')
    expect(app.errors).not.toEqual([])
    expect(await accounts()).toEqual([])
    const content = await database.content()
    for (const secret of provider.issued) expect(content).not.toContain(secret)
    const logged = inspect(app.errors, { depth: 10 })
    expect(logged).toContain('ERR_CLOSED')
    for (const secret of provider.issued) expect(logged).not.toContain(secret)
  })

  it('reads what was stored before, until the sweep has reported 0', async () => {
    const userId = await addPlain({ access_token: 'plain access', id_token: 'plain id' })
    const old = async (options?: Partial<EncryptedAdapterOptions>) =>
      adapterWith(options).getAccount('old', 'provider')
    const events: KeystoreEvent[] = []
    const onEvent = (event: KeystoreEvent) => void events.push(event)
    expect(await old({ plaintext: undefined, onEvent })).toMatchObject({
      access_token: 'plain access',
      refresh_token: null,
      id_token: 'plain id',
    })
    expect(events).toEqual([{ type: 'plaintextPassThrough' }])
    const error = await errorOf(old())
    expect(error).toMatchObject({
      code: 'ERR_NOT_ENCRYPTED',
      message: expect.stringMatching(/^account\.access_token of user "[^"]+": /),
    })
    expect(String(error)).not.toContain('plain access')

    const source = drizzleSource(database.db, database.accounts, {
      key: ['provider', 'providerAccountId'],
      owner: 'userId',
      columns: Object.fromEntries(FIELDS.map((field) => [field, `account.${field}`])),
    })
    expect(await reencrypt({ envelope, source, plaintext: true })).toMatchObject({ changed: 2, left: 0 })
    expect(await old()).toMatchObject({ userId, access_token: 'plain access', id_token: 'plain id' })
  })

  it('names a token that cannot be read, or gives what it is told to', async () => {
    await appWith().signInWith('provider')
    await database.query('update account set access_token = id_token')
    const read = async (options?: Partial<EncryptedAdapterOptions>) =>
      adapterWith(options).getAccount('alice-at-provider', 'provider')
    expect(await errorOf(read())).toMatchObject({
      code: 'ERR_DECRYPTION_FAILED',
      message: expect.stringContaining('account.access_token'),
    })
    const rest = { refresh_token: provider.last.refreshToken, id_token: provider.last.idToken }
    expect(await read({ onUnreadable: 'null' })).toMatchObject({ ...rest, access_token: null })
    const told: unknown[] = []
    const onUnreadable = ({ error, ...field }: { error: Error }) => {
      told.push(field)
      return error.name
    }
    expect(await read({ onUnreadable })).toMatchObject(rest)
    expect(told).toEqual([
      { model: 'account', field: 'access_token', rowId: null, userId: expect.any(String) },
    ])
    await envelope.close()
    expect(await errorOf(read({ onUnreadable: 'null' }))).toMatchObject({ code: 'ERR_CLOSED' })
  })

  it('leaves passkeys, sessions and verification tokens as they are, since Auth.js looks them up by their values', async () => {
    const adapter = adapterWith()
    const user = await adapter.createUser({ id: 'ignored', email: 'alice@example.com', emailVerified: null })
    const passkey = {
      credentialID: 'credential',
      userId: user.id,
      providerAccountId: 'credential',
      credentialPublicKey: 'public',
      counter: 0,
      credentialDeviceType: 'singleDevice',
      credentialBackedUp: false,
      transports: null,
    }
    await adapter.linkAccount({
      userId: user.id,
      type: 'webauthn',
      provider: 'passkey',
      providerAccountId: 'credential',
    })
    expect(await adapter.createAuthenticator(passkey)).toEqual(passkey)
    expect(await adapter.updateAuthenticatorCounter('credential', 7)).toEqual({ ...passkey, counter: 7 })
    expect(await adapter.listAuthenticatorsByUserId(user.id)).toHaveLength(1)
    expect(await adapter.getAuthenticator('credential')).toMatchObject({ counter: 7 })
    expect(await adapter.getAccount('credential', 'passkey')).toMatchObject({
      access_token: null,
      userId: user.id,
    })
    const expires = new Date(Date.now() + 60_000)
    await adapter.createSession({ sessionToken: 's', userId: user.id, expires })
    expect(await adapter.getSessionAndUser('s')).toMatchObject({ user: { id: user.id } })
    const token = { identifier: 'alice@example.com', token: 'hashed', expires }
    await adapter.createVerificationToken(token)
    expect(await adapter.useVerificationToken(token)).toMatchObject({ token: 'hashed' })
  })
})

describe('encryptedAdapter', () => {
  const envelope = ofEachTest(async () => {
    const service = await freshService()
    return Object.assign(service, { remove: () => service.close() })
  })
  const account = { userId: 'alice', type: 'oauth' as const, provider: 'p', providerAccountId: '1' }
  /** An adapter that gives back what it stores, as some do. */
  class MemoryAdapter {
    stored: Record<string, unknown> | null = null
    linkAccount = async (given: Record<string, unknown>) => {
      this.stored = given
      return given
    }
    unlinkAccount = async (_of: { provider: string }) => this.stored
  }

  it('takes adapters that give accounts back, and fields of the application’s own', async () => {
    const below = new MemoryAdapter()
    const adapter = encryptedAdapter(below, {
      envelope,
      fields: { oauth_token_secret: true, id_token: false },
    })
    const given = {
      ...account,
      access_token: 'a',
      oauth_token_secret: 's',
      id_token: 'i',
      refresh_token: null,
    }
    expect(await adapter.linkAccount(given)).toEqual(given)
    expect(below.stored).toEqual({
      ...given,
      access_token: expect.stringMatching(TOKEN),
      oauth_token_secret: expect.stringMatching(TOKEN),
    })
    expect(await adapter.unlinkAccount({ provider: 'p' })).toEqual(given)
    // It is unlinked, whether its tokens can be read or not.
    below.stored = {
      ...below.stored,
      access_token: (below.stored as unknown as typeof given).oauth_token_secret,
    }
    expect(await adapter.unlinkAccount({ provider: 'p' })).toEqual({ ...given, access_token: null })
    expect(await adapter.linkAccount({ ...given, userId: 7 })).toMatchObject({ access_token: 'a' })
    expect(
      await envelope.decrypt('7', String(below.stored?.access_token), { column: 'account.access_token' }),
    ).toBe('a')
  })

  it('has the methods that the adapter has, and refuses one that it does not know', () => {
    const adapter = { getAccount: async () => null, createUser: async () => null, displayName: 'x' }
    expect(Object.keys(encryptedAdapter(adapter, { envelope }))).toEqual(Object.keys(adapter))
    const more = { ...adapter, exportAccounts: () => [] }
    expect(() => encryptedAdapter(more, { envelope })).toThrow(/exportAccounts.*allowMethods/)
    expect(encryptedAdapter(more, { envelope, allowMethods: ['exportAccounts'] }).exportAccounts()).toEqual(
      [],
    )
  })

  it('refuses an account that it cannot encrypt, and stores nothing', async () => {
    const below = new MemoryAdapter()
    const { linkAccount } = encryptedAdapter(below, { envelope })
    const token = await envelope.encrypt('alice', 'x')
    for (const wrong of [
      { ...account, access_token: 'a', userId: undefined },
      { ...account, access_token: 'a', userId: '' },
      { ...account, access_token: { of: 'a' } },
      { ...account, access_token: token },
      null,
    ])
      expect(await errorOf(linkAccount(wrong as never))).toMatchObject(REFUSED)
    expect(below.stored).toBeNull()
  })

  it.each([
    ['no adapter', null, {}],
    ['a function', () => ({}), {}],
    ['no service', {}, { envelope: {} }],
    ['an unknown option', {}, { field: [] }],
    ['a list of fields', {}, { fields: ['access_token'] }],
    ['a field that is looked up', {}, { fields: { providerAccountId: true } }],
    ['the name of a field in another spelling', {}, { fields: { idToken: false } }],
    ['another word for plaintext', {}, { plaintext: true }],
    ['another word for unreadable values', {}, { onUnreadable: 'ignore' }],
    ['another word for shredding', {}, { shredOnDelete: 'yes' }],
    ['methods by no names', {}, { allowMethods: 'exportAccounts' }],
  ])('refuses %s', (_, adapter, options) => {
    expect(() => encryptedAdapter(adapter as never, { envelope, ...options } as never)).toThrow(
      expect.objectContaining(REFUSED),
    )
  })
})
