/** The encrypting adapter when users are deleted, and in transactions. */
import type { BetterAuthOptions } from 'better-auth'
import { describe, expect, it } from 'vitest'
import { encryptedAdapter } from '../../src/integrations/better-auth.js'
import { type Adapter, encryptedAdapters, OPTIONS } from '../support/better-auth-adapter.js'
import { type Dialect, dialects } from '../support/databases.js'
import { errorOf } from '../support/errors.js'

const TOKEN = /^v3:[\w-]{102,}$/

describe.each(dialects)('the encrypting adapter on %s', (dialect) => {
  const { database, started, addUser, addAccount, stored, decrypt, byId } = encryptedAdapters(dialect)

  describe('when users are deleted', () => {
    const isShredded = async (user: string) =>
      database.envelope.encrypt(user, 'x').then(
        () => false,
        ({ code }) => code === 'ERR_KEY_SHREDDED',
      )

    it('shreds all of them, however they are deleted', async () => {
      const adapter = await started()
      const many = Array.from({ length: 120 }, (_, index) => `many-${index}`)
      for (const user of ['alice', 'bob', 'carol', ...many]) {
        await addUser(adapter, user)
        await addAccount(adapter, user)
      }
      await adapter.delete({ model: 'user', where: [{ field: 'email', value: 'alice@example.com' }] })
      await adapter.consumeOne({ model: 'user', where: [{ field: 'id', value: 'bob' }] })
      const where = [{ field: 'id', operator: 'starts_with' as const, value: 'many-' }]
      expect(await adapter.deleteMany({ model: 'user', where })).toBe(120)
      for (const user of ['alice', 'bob', ...many])
        expect([user, await isShredded(user)]).toEqual([user, true])
      expect(await isShredded('carol')).toBe(false)
      // Who is not there is not shredded: the id may be that of a later user.
      await adapter.delete({ model: 'user', where: [{ field: 'id', value: 'dave' }] })
      expect(await isShredded('dave')).toBe(false)
      await adapter.deleteMany({ model: 'account', where: [] })
      expect(await isShredded('carol')).toBe(false)
    })

    it('leaves their keys alone if told so, or if the row is still there', async () => {
      const adapter = await started({ shredOnDelete: false })
      for (const user of ['alice', 'bob']) await addUser(adapter, user)
      await adapter.delete({ model: 'user', where: [{ field: 'id', value: 'alice' }] })
      expect(await isShredded('alice')).toBe(false)
      const soft = encryptedAdapter(
        (options: BetterAuthOptions) => ({
          ...database.adapter(OPTIONS)(options),
          delete: async () => undefined,
        }),
        { envelope: database.envelope },
      )(OPTIONS)
      await (soft as unknown as Adapter).delete({ model: 'user', where: [{ field: 'id', value: 'bob' }] })
      expect(await isShredded('bob')).toBe(false)
    })

    it("forgets them with 'forget', so that an id may be used anew", async () => {
      const adapter = await started({ shredOnDelete: 'forget' })
      await addUser(adapter, 'alice')
      await addAccount(adapter, 'alice')
      const token = (await stored())[0]?.accessToken
      await adapter.delete({ model: 'user', where: [{ field: 'id', value: 'alice' }] })
      await addUser(adapter, 'alice')
      await addAccount(adapter, 'alice')
      await expect(decrypt('alice', token)).rejects.toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
    })

    it('says whose keys could not be erased, after the row is gone', async () => {
      const adapter = await started()
      await addUser(adapter, 'alice')
      await database.envelope.close()
      const error = await errorOf(adapter.delete({ model: 'user', where: [{ field: 'id', value: 'alice' }] }))
      expect(error).toMatchObject({
        code: 'ERR_CLOSED',
        message: expect.stringContaining('keystore shred-user'),
      })
      expect(error?.message).toContain('"alice"')
      expect(await database.rows('select id from "user"')).toEqual([])
    })
  })

  describe('in a transaction', () => {
    const real: Dialect = 'postgres'
    const transaction = dialect === real

    it('encrypts, and shreds when it is committed and not before', async () => {
      const adapter = await started({}, OPTIONS, { transaction })
      await addUser(adapter, 'bob')
      await adapter.transaction(async (trx) => {
        await addUser(trx as Adapter, 'alice')
        const account = await addAccount(trx as Adapter, 'alice')
        expect(await trx.findOne({ model: 'account', where: byId(account) })).toEqual(account)
        await trx.delete({ model: 'user', where: [{ field: 'id', value: 'bob' }] })
        if (transaction) await database.envelope.encrypt('bob', 'still there')
      })
      expect((await stored())[0]?.accessToken).toMatch(TOKEN)
      await expect(database.envelope.encrypt('bob', 'x')).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
    })

    it('shreds nobody whom a transaction that is rolled back has deleted', async () => {
      const adapter = await started({}, OPTIONS, { transaction })
      await addUser(adapter, 'alice')
      await addAccount(adapter, 'alice')
      const work = adapter.transaction(async (trx) => {
        await trx.delete({ model: 'user', where: [{ field: 'id', value: 'alice' }] })
        throw new Error('no, not that')
      })
      await expect(work).rejects.toThrow('no, not that')
      // Without real transactions the user is gone, and so are the keys.
      if (transaction) expect(await adapter.findMany({ model: 'account' })).toHaveLength(1)
      else
        await expect(database.envelope.encrypt('alice', 'x')).rejects.toMatchObject({
          code: 'ERR_KEY_SHREDDED',
        })
    })
  })
})
