/** What the encrypting adapter does with each call, looked at in the database below. */
import type { BetterAuthOptions } from 'better-auth'
import { describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { StoreError } from '../../src/index.js'
import { type EncryptedAdapterOptions, encryptedAdapter } from '../../src/integrations/better-auth.js'
import { type Adapter, encryptedAdapters, OF_PROVIDER, OPTIONS } from '../support/better-auth-adapter.js'
import { dialects } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { freshService } from '../support/fresh-store.js'
import { overriding } from '../support/store-doubles.js'

const TOKEN = /^v3:[\w-]{102,}$/
const REFUSED = { code: 'ERR_INVALID_ARGUMENT' }
type Row = Record<string, unknown>

describe.each(dialects)('the encrypting adapter on %s', (dialect) => {
  const { database, started, addUser, addAccount, stored, decrypt, byId } = encryptedAdapters(dialect)

  it('gives back plaintext and stores tokens, under contexts that are permanent', async () => {
    const adapter = await started()
    await addUser(adapter, 'alice')
    const account = await addAccount(adapter, 'alice', { idToken: 'an id token', refreshToken: null })
    expect(account).toMatchObject({
      accessToken: 'access of alice',
      idToken: 'an id token',
      refreshToken: null,
    })
    const [row] = await stored()
    expect(row).toMatchObject({ accessToken: expect.stringMatching(TOKEN), refreshToken: null })
    expect(await decrypt('alice', row?.accessToken)).toBe('access of alice')
    expect(await decrypt('alice', row?.idToken, 'account.idToken')).toBe('an id token')
    expect(await adapter.findOne({ model: 'account', where: byId(account) })).toEqual(account)
  })

  it('decrypts what is selected without the owner, and adds no owner to it', async () => {
    const adapter = await started()
    await addUser(adapter, 'alice')
    const { id } = await addAccount(adapter, 'alice')
    const select = ['id', 'accessToken']
    const expected = { id, accessToken: 'access of alice' }
    expect(await adapter.findOne({ model: 'account', where: byId({ id }), select })).toEqual(expected)
    expect(await adapter.findMany({ model: 'account', select })).toMatchObject([expected])
    expect(select).toEqual(['id', 'accessToken'])
    const more = { ...OF_PROVIDER, userId: 'alice', accessToken: 'another' }
    const made = await adapter.create({ model: 'account', data: more, select: ['accessToken'] })
    expect(made).toEqual({ accessToken: 'another' })
    expect(await adapter.findOne({ model: 'account', where: byId({ id }), select: ['providerId'] })).toEqual({
      providerId: 'p',
    })
  })

  it.each([true, false])('decrypts rows that are joined (by the database: %s)', async (joins) => {
    const options = { ...OPTIONS, advanced: { database: { joins } } }
    const adapter = await started({}, options)
    for (const user of ['alice', 'bob']) {
      await addUser(adapter, user)
      await addAccount(adapter, user)
    }
    const users = await adapter.findMany<Row>({ model: 'user', join: { account: true } })
    expect(users.map(({ id, account }) => [id, (account as Row[])[0]?.accessToken])).toEqual([
      ['alice', 'access of alice'],
      ['bob', 'access of bob'],
    ])
    const accounts = await adapter.findMany<Row>({ model: 'account', join: { user: true } })
    expect(accounts).toMatchObject([
      { accessToken: 'access of alice', user: { id: 'alice' } },
      { accessToken: 'access of bob', user: { id: 'bob' } },
    ])
  })

  it('follows names of models and fields that are not those of Better Auth', async () => {
    const options = {
      account: { modelName: 'oauth', fields: { accessToken: 'access_token', userId: 'user_id' } },
    } satisfies BetterAuthOptions
    const adapter = await started({}, options)
    await addUser(adapter, 'alice')
    const account = await addAccount(adapter, 'alice')
    const [row] = await stored('oauth')
    expect(await decrypt('alice', row?.access_token)).toBe('access of alice')
    expect(await adapter.findOne({ model: 'oauth', where: byId(account) })).toMatchObject({
      accessToken: 'access of alice',
    })
    await adapter.update({ model: 'oauth', where: byId(account), update: { accessToken: 'new' } })
    expect(await decrypt('alice', (await stored('oauth'))[0]?.access_token)).toBe('new')
    for (const field of ['accessToken', 'access_token'])
      await expect(adapter.count({ model: 'oauth', where: [{ field, value: 'new' }] })).rejects.toMatchObject(
        REFUSED,
      )
  })

  it('looks up the owner for an update that does not say it', async () => {
    const adapter = await started()
    await addUser(adapter, 'alice')
    const account = await addAccount(adapter, 'alice')
    const update = { accessToken: 'renewed', scope: 'email' }
    expect(await adapter.update({ model: 'account', where: byId(account), update })).toMatchObject(update)
    expect(await decrypt('alice', (await stored())[0]?.accessToken)).toBe('renewed')
    const none = [{ field: 'id', value: 'nobody' }]
    expect(await adapter.update({ model: 'account', where: none, update })).toBeNull()
    expect(await adapter.updateMany({ model: 'account', where: none, update })).toBe(0)
  })

  it('encrypts an update of many rows for the owner of each, however many there are', async () => {
    const adapter = await started()
    const users = Array.from({ length: 3 }, (_, index) => `user-${index}`)
    for (const user of users) {
      await addUser(adapter, user)
      for (let index = 0; index < 40; index += 1) await addAccount(adapter, user, { accountId: `${index}` })
    }
    const where = [{ field: 'providerId', value: 'p' }]
    expect(await adapter.updateMany({ model: 'account', where, update: { accessToken: 'same' } })).toBe(120)
    for (const { userId, accessToken } of await stored())
      expect(await decrypt(String(userId), accessToken)).toBe('same')
    // One row is meant, and several users' match.
    await expect(
      adapter.update({ model: 'account', where, update: { accessToken: 'x' } }),
    ).rejects.toMatchObject(REFUSED)
    expect(await adapter.updateMany({ model: 'account', where, update: { accessToken: null } })).toBe(120)
    expect((await stored()).every(({ accessToken }) => accessToken === null)).toBe(true)
  })

  it('does not write for the owner that was looked up once the row has another', async () => {
    const adapter = await started()
    for (const user of ['alice', 'bob']) await addUser(adapter, user)
    const account = await addAccount(adapter, 'alice')
    const racing = encryptedAdapter(
      (options: BetterAuthOptions) => {
        const base = database.adapter(OPTIONS)(options)
        const findMany: Adapter['findMany'] = async (call) => {
          const rows = await base.findMany(call)
          await database.rows(`update account set "userId" = 'bob'`)
          return rows as never
        }
        return { ...base, findMany }
      },
      { envelope: database.envelope },
    )(OPTIONS)
    const update = { accessToken: 'for alice' }
    expect(await racing.update({ model: 'account', where: byId(account), update })).toBeNull()
    expect(await decrypt('alice', (await stored())[0]?.accessToken)).toBe('access of alice')
  })

  it('encrypts anew what comes to another user', async () => {
    const adapter = await started()
    for (const user of ['alice', 'bob']) await addUser(adapter, user)
    const account = await addAccount(adapter, 'alice', { refreshToken: 'kept' })
    await addAccount(adapter, 'alice', { accountId: 'second' })
    await addAccount(adapter, 'bob')
    const update = { userId: 'bob', accessToken: 'new' }
    expect(await adapter.update({ model: 'account', where: byId(account), update })).toMatchObject({
      ...update,
      refreshToken: 'kept',
    })
    const where = [{ field: 'providerId', value: 'p' }]
    expect(await adapter.updateMany({ model: 'account', where, update: { userId: 'bob' } })).toBe(3)
    const rows = await adapter.findMany<Row>({ model: 'account' })
    expect(rows.map(({ userId, accessToken }) => `${userId}: ${accessToken}`).sort()).toEqual([
      'bob: access of alice',
      'bob: access of bob',
      'bob: new',
    ])
    await database.envelope.shredUser('alice')
    expect(await adapter.findMany({ model: 'account' })).toHaveLength(3)
  })

  it('keeps values of nobody in the pool only where the list says so', async () => {
    const adapter = await started()
    await addUser(adapter, 'alice')
    const create = (data: Row) => adapter.create<Row, Row>({ model: 'ssoProvider', data })
    const ofNobody = await create({ oidcConfig: '{"secret":1}', userId: null })
    const ofAlice = await create({ oidcConfig: '{"secret":2}', userId: 'alice' })
    const rows = await stored('ssoProvider')
    const token = (row: Row) => String(rows.find(({ id }) => id === row.id)?.oidcConfig)
    const context = { column: 'ssoProvider.oidcConfig' }
    expect(await database.envelope.pool.decrypt(token(ofNobody), context)).toBe('{"secret":1}')
    expect(await database.envelope.decrypt('alice', token(ofAlice), context)).toBe('{"secret":2}')
    const update = { oidcConfig: '{"secret":3}' }
    await adapter.update({ model: 'ssoProvider', where: byId(ofNobody as { id: string }), update })
    const read = await adapter.findMany<Row>({ model: 'ssoProvider' })
    expect(read.map(({ oidcConfig }) => oidcConfig).sort()).toEqual(['{"secret":2}', '{"secret":3}'])

    const unowned = { ...OF_PROVIDER, accessToken: 'whose?' }
    const error = await errorOf(adapter.create({ model: 'account', data: unowned }))
    expect(error).toMatchObject({ ...REFUSED, message: expect.stringContaining('account.userId') })
    expect(JSON.stringify(error)).not.toContain('whose?')
  })

  it('refuses to compare, sort or count by an encrypted field, but asks whether there is a value', async () => {
    const adapter = await started()
    await addUser(adapter, 'alice')
    const account = await addAccount(adapter, 'alice')
    const model = 'account'
    const where = [{ field: 'accessToken', value: 'access of alice' }]
    const calls = [
      adapter.findOne({ model, where }),
      adapter.findMany({ model, where: [...byId(account), ...where] }),
      adapter.findMany({ model, where: [{ field: 'accessToken', operator: 'in', value: ['x'] }] }),
      adapter.findMany({ model, where: [{ field: 'accessToken', operator: 'starts_with', value: 'a' }] }),
      adapter.findMany({ model, sortBy: { field: 'accessToken', direction: 'asc' } }),
      adapter.count({ model, where }),
      adapter.update({ model, where, update: { scope: 'x' } }),
      adapter.updateMany({ model, where, update: { scope: 'x' } }),
      adapter.delete({ model, where }),
      adapter.deleteMany({ model, where }),
      adapter.consumeOne({ model, where }),
      adapter.incrementOne({ model, where, increment: {}, set: { scope: 'x' } }),
      adapter.incrementOne({ model, where: byId(account), increment: { accessToken: 1 } }),
    ]
    for (const result of await Promise.allSettled(calls)) {
      expect(result).toMatchObject({ status: 'rejected', reason: REFUSED })
      expect(String((result as PromiseRejectedResult).reason.message)).not.toContain('access of')
    }
    const isNull = (field: string) => [{ field, value: null }]
    const isNotNull = (field: string) => [{ field, operator: 'ne' as const, value: null }]
    expect(await adapter.count({ model, where: isNull('refreshToken') })).toBe(1)
    expect(await adapter.count({ model, where: isNull('accessToken') })).toBe(0)
    expect(await adapter.findOne({ model, where: isNotNull('accessToken') })).toMatchObject({
      id: account.id,
    })
  })

  it('compares the value of a row that is named by its id, as the condition of a write', async () => {
    const adapter = await started()
    await addUser(adapter, 'alice')
    const model = 'twoFactor'
    const data = { userId: 'alice', secret: 's', backupCodes: 'one,two' }
    const row = await adapter.create<Row, { id: string }>({ model, data })
    const use = (from: string, to: string, id = row.id) =>
      adapter.incrementOne({
        model,
        where: [...byId({ id }), { field: 'backupCodes', value: from }],
        increment: {},
        set: { backupCodes: to },
      })
    expect(await use('other', 'x')).toBeNull()
    expect(await use('one,two', 'x', 'another')).toBeNull()
    const results = await Promise.all([use('one,two', 'two'), use('one,two', 'two'), use('one,two', 'two')])
    expect(results.filter((result) => result !== null)).toMatchObject([{ backupCodes: 'two', secret: 's' }])
    const where = (value: string) => [...byId(row), { field: 'backupCodes', value }]
    expect(await adapter.updateMany({ model, where: where('one,two'), update: { verified: true } })).toBe(0)
    expect(await adapter.consumeOne({ model, where: where('one,two') })).toBeNull()
    expect(await adapter.consumeOne({ model, where: where('two') })).toMatchObject({ backupCodes: 'two' })
    expect(await stored(model)).toEqual([])
  })

  it('refuses a value that is no text, or is a token already', async () => {
    const adapter = await started()
    await addUser(adapter, 'alice')
    const accessToken = await database.envelope.encrypt('alice', 'x')
    await expect(addAccount(adapter, 'alice', { accessToken })).rejects.toMatchObject(REFUSED)
    await expect(addAccount(adapter, 'alice', { accessToken: { a: 1 } })).rejects.toMatchObject(REFUSED)
    expect(await stored()).toEqual([])
  })

  it('gives a stored plaintext to Better Auth until it is told to reject it', async () => {
    const tolerant = await started({ plaintext: 'pass-through' })
    await addUser(tolerant, 'alice')
    const account = await addAccount(tolerant, 'alice', { refreshToken: 'kept' })
    await database.rows(`update account set "accessToken" = 'plain', "idToken" = '$ba$key$00ff'`)
    const find = (adapter: Adapter) => adapter.findOne({ model: 'account', where: byId(account) })
    expect(await find(tolerant)).toMatchObject({
      accessToken: 'plain',
      idToken: '$ba$key$00ff',
      refreshToken: 'kept',
    })
    const strict = database.encrypted(OPTIONS, {})(OPTIONS)
    const error = await errorOf(find(strict))
    expect(error).toMatchObject({
      code: 'ERR_NOT_ENCRYPTED',
      message: expect.stringContaining('account.accessToken'),
    })
    expect(String(error)).not.toContain("'plain'")
    // A write replaces it in either case, also one that is guarded by the plaintext.
    const where = [...byId(account), { field: 'accessToken', value: 'plain' }]
    expect(await tolerant.updateMany({ model: 'account', where, update: { accessToken: 'new' } })).toBe(1)
    expect(await decrypt('alice', (await stored())[0]?.accessToken)).toBe('new')
    for (const plain of ['v3:my-plain', 'v2:plain-at']) {
      await database.rows(`update account set "accessToken" = '${plain}'`)
      expect(await find(tolerant)).toMatchObject({ accessToken: plain })
      await expect(find(strict)).rejects.toMatchObject({ code: 'ERR_NOT_ENCRYPTED' })
    }
    // What can only be a token that was cut or changed is never taken for plaintext.
    await database.rows(`update account set "accessToken" = 'v3:AAAAcut'`)
    await expect(find(tolerant)).rejects.toMatchObject({ code: 'ERR_MALFORMED_TOKEN' })
  })

  it('names the field that cannot be decrypted, or gives null or what a function says in its place', async () => {
    const adapter = await started()
    for (const user of ['alice', 'bob']) await addUser(adapter, user)
    await addAccount(adapter, 'alice', { refreshToken: 'fine' })
    await addAccount(adapter, 'bob')
    const [alice] = await stored()
    const [bob] = await database.rows(`select id from account where "userId" = 'bob'`)
    // Bob's row has a token of Alice's.
    await database.rows(`update account set "accessToken" = '${alice?.accessToken}' where "userId" = 'bob'`)
    const ofBob = { model: 'account', where: [{ field: 'userId', value: 'bob' }] }
    await expect(adapter.findMany({ model: 'account' })).rejects.toMatchObject({
      code: 'ERR_DECRYPTION_FAILED',
      message: expect.stringMatching(new RegExp(`^account\\.accessToken of row "${bob?.id}", user "bob": `)),
    })
    const tokensOf = async (encryption: Partial<EncryptedAdapterOptions>) => {
      const rows = await database.encrypted(OPTIONS, encryption)(OPTIONS).findMany<Row>({ model: 'account' })
      return rows.map(({ accessToken }) => accessToken).sort()
    }
    expect(await tokensOf({ onUnreadable: 'null' })).toEqual(['access of alice', null])
    const told: object[] = []
    const onUnreadable = (unreadable: object) => {
      told.push(unreadable)
      return 'unreadable'
    }
    expect(await tokensOf({ onUnreadable })).toEqual(['access of alice', 'unreadable'])
    expect(told).toMatchObject([
      {
        model: 'account',
        field: 'accessToken',
        rowId: bob?.id,
        userId: 'bob',
        error: { code: 'ERR_DECRYPTION_FAILED' },
      },
    ])
    // A promise would be stored and sent as the token.
    const later = (async () => 'unreadable') as never
    await expect(tokensOf({ onUnreadable: later })).rejects.toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    // A sign-in writes a new token, which mends it.
    await adapter.updateMany({ ...ofBob, update: { accessToken: 'new' } })
    expect(await adapter.findOne(ofBob)).toMatchObject({ accessToken: 'new' })
    // An outage is no unreadable value.
    const getAll = () => Promise.reject(new StoreError('down', { retryable: true }))
    await using down = await freshService(overriding(memoryKeyStore(), { getAll }))
    await expect(tokensOf({ envelope: down, onUnreadable: 'null' })).rejects.toMatchObject({
      code: 'ERR_STORE',
    })
  })

  it('lets no method through that it does not know, be it inherited or not', async () => {
    class Custom {
      findMany = async () => []
      async upsertMany() {}
    }
    const { envelope } = database
    const start = (made: object) =>
      encryptedAdapter((_: object) => made, { envelope })({}) as Record<string, () => unknown>
    const adapter = start(
      Object.assign(new Custom(), { createMany: async () => [], createSchema: () => 'code' }),
    )
    for (const name of ['createMany', 'upsertMany'])
      await expect(adapter[name]?.()).rejects.toMatchObject({
        ...REFUSED,
        message: expect.stringContaining(name),
      })
    expect(adapter.createSchema?.()).toBe('code')
    expect(() => start(adapter)).toThrow('encrypts already')
  })
})
