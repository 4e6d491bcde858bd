/** The API in a runtime, on any store. */
import assert from 'node:assert/strict'
import {
  EnvelopeCrypto,
  generateMasterKey,
  localMasterKey,
  masterKeyring,
  pruneRetired,
  rewrapAll,
  verifyAll,
} from './library.mjs'

/** @param subject like one of the conformance suite */
export function apiTests({ describe, it, beforeEach, afterEach }, { name, open }) {
  describe(`the API on ${name}`, () => {
    let opened
    beforeEach(async () => {
      opened = await open()
    })
    afterEach(() => opened.close())
    const masterKey = localMasterKey(generateMasterKey())
    const openEnvelope = (options = {}) =>
      EnvelopeCrypto.open({ store: opened.store, masterKeys: masterKey, closeStore: false, ...options })

    it('encrypts, decrypts, rotates, prunes, shreds', async () => {
      const envelope = await openEnvelope()
      const context = { provider: 'openai' }
      const token = await envelope.encrypt('alice', 'sk-1', context)
      assert.match(token, /^v3:/)
      assert.equal(await envelope.decrypt('alice', token, context), 'sk-1')
      await assert.rejects(() => envelope.decrypt('alice', token), { code: 'ERR_DECRYPTION_FAILED' })
      await assert.rejects(() => envelope.decrypt('bob', token, context), { code: 'ERR_KEY_NOT_FOUND' })
      await envelope.rotateUserKey('alice')
      const second = await envelope.encrypt('alice', 'sk-2')
      assert.equal(await envelope.decrypt('alice', token, context), 'sk-1')
      const { store } = opened
      await pruneRetired({
        store,
        userId: 'alice',
        beforeVersion: 2,
        tokensReencrypted: true,
        includeFirst: true,
      })
      const other = await openEnvelope()
      await assert.rejects(() => other.decrypt('alice', token, context), { code: 'ERR_KEY_NOT_FOUND' })
      assert.equal(await other.decrypt('alice', second), 'sk-2')
      assert.deepEqual((await other.shredUser('alice')).versions, [2])
      await assert.rejects(() => other.decrypt('alice', second), { code: 'ERR_KEY_SHREDDED' })
      await assert.rejects(() => other.encrypt('alice', 'x'), { code: 'ERR_KEY_SHREDDED' })
      await other.close()
      await envelope.close()
    })

    it('works in bulk, in handles, in scopes, for the pool, and with bytes of 1 MiB', async () => {
      const envelope = await openEnvelope()
      const items = Array.from({ length: 200 }, (_, i) => ({
        userId: `user ${i % 50}`,
        plaintext: `secret ${i}`,
      }))
      const tokens = await envelope.encryptMany(items)
      const back = await envelope.decryptMany(
        tokens.map(({ value }, i) => ({ userId: items[i].userId, token: value })),
      )
      assert.deepEqual(
        back.map(({ value }) => value),
        items.map(({ plaintext }) => plaintext),
      )
      const handle = await envelope.user('user 1')
      assert.equal(handle.decrypt(tokens[1].value), 'secret 1')
      const inScope = await envelope.scope('user 2', async (user) => {
        await Promise.resolve()
        return user.decrypt(user.encrypt('in a scope'))
      })
      assert.equal(inScope, 'in a scope')
      assert.equal(await envelope.pool.decrypt(await envelope.pool.encrypt('shared')), 'shared')
      const print = (value) => envelope.fingerprint('user 1', value, { name: 'api_key' })
      assert.equal(await print('x'), await print('x'))
      const megabyte = new Uint8Array(1 << 20).map((_, i) => i)
      const sealed = await envelope.encryptBytes('user 1', megabyte)
      assert.ok(Buffer.from(await envelope.decryptBytes('user 1', sealed)).equals(Buffer.from(megabyte)))
      await envelope.close()
    })

    it('mints one key, however many ask at once', async () => {
      const envelopes = await Promise.all(Array.from({ length: 5 }, () => openEnvelope()))
      const tokens = await Promise.all(
        Array.from({ length: 50 }, (_, i) => envelopes[i % 5].encrypt('racer', String(i))),
      )
      for (const [i, token] of tokens.entries())
        assert.equal(await envelopes[(i + 1) % 5].decrypt('racer', token), String(i))
      assert.equal((await opened.store.getAll(['racer'])).get('racer').length, 1)
      for (const envelope of envelopes) await envelope.close()
    })

    it('writes and reads v2, and rewraps to another master key', async () => {
      const v2 = await openEnvelope({ format: 'v2' })
      const token = await v2.encrypt('alice', 'old')
      assert.match(token, /^v2:/)
      await v2.close()
      const next = localMasterKey(generateMasterKey())
      const masterKeys = masterKeyring({ primary: next, previous: [masterKey] })
      const accept = { keys: ['v2', 'v3'], tokens: ['v2', 'v3'] }
      const { store } = opened
      assert.equal((await rewrapAll({ store, masterKeys, accept: ['v2', 'v3'] })).changed, 1)
      assert.equal((await verifyAll({ store, masterKeys: next })).ok, true)
      const v3 = await openEnvelope({ masterKeys: next, accept: { tokens: accept.tokens } })
      assert.equal(await v3.decrypt('alice', token), 'old')
      await v3.close()
    })
  })
}
