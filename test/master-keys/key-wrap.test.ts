/** Wrapped data keys: those of the frozen vectors, and what of a row is bound to its wrap. */
import { describe, expect, it } from 'vitest'
import { hmacSha256, XaesKey } from '../../src/format/aead.js'
import { type KeyRecord, localMasterKey, masterKeyring } from '../../src/index.js'
import { unwrapDataKey, wrapDataKey } from '../../src/master-keys/key-wrap.js'
import { randomRecord } from '../support/rows.js'
import { fromHex, type V3Wrap, v3Vectors } from '../support/vectors.js'

describe('wraps of format v3 by an independent implementation', () => {
  const v3 = v3Vectors()
  const local = localMasterKey(fromHex(v3.master_key))
  const keyring = masterKeyring({ primary: local })
  const recordOf = (wrap: V3Wrap): KeyRecord =>
    randomRecord(wrap.user, {
      version: wrap.version,
      encryptedKey: fromHex(wrap.wrapped),
      kekId: v3.kek_id,
    })
  const unwrap = async (record: KeyRecord) => {
    const dataKey = await unwrapDataKey(keyring, record, ['v3'])
    return Buffer.from(dataKey).toString('hex')
  }
  const refused = (record: KeyRecord) =>
    expect(unwrap(record)).rejects.toMatchObject({ code: 'ERR_UNWRAP_FAILED' })

  it('have the KEK id of their master key, and v2 wraps under it have local-v2: with the same fingerprint', () => {
    expect(local.id).toBe(v3.kek_id)
    expect(local.v2Id).toBe(v3.kek_id.replace('local:', 'local-v2:'))
  })

  it('are under a key that is derived by its label', () => {
    const label = 'drizzle-keystore/wrap-key/v3'
    expect(hmacSha256(fromHex(v3.master_key), label).toString('hex')).toBe(v3.wrap_key)
  })

  it('open to their data keys', async () => {
    expect(v3.wraps.length).toBeGreaterThan(0)
    for (const wrap of v3.wraps) expect(await unwrap(recordOf(wrap))).toBe(wrap.dek)
  })

  it('are what the wrap key seals with their nonces', () => {
    const wrapKey = new XaesKey(fromHex(v3.wrap_key))
    for (const { nonce, dek, aad, wrapped } of v3.wraps) {
      const sealed = wrapKey.sealWithNonce(fromHex(nonce), fromHex(dek), fromHex(aad))
      expect(`03${sealed.toString('hex')}`).toBe(wrapped)
    }
  })

  it('made by the library open for their own row only', async () => {
    const dataKey = fromHex(v3.wraps[0]?.dek ?? '')
    const ref = { userId: 'carol', version: 3 }
    const wrapped = await wrapDataKey(keyring, ref, dataKey, 'v3')
    const record = randomRecord(ref.userId, { version: ref.version, ...wrapped })
    expect(record.encryptedKey.length).toBe(105)
    expect(record.kekId).toBe(local.id)
    expect(await unwrap(record)).toBe(dataKey.toString('hex'))
    await refused({ ...record, version: 4 })
    await refused({ ...record, userId: 'dave' })
  })

  it('do not open for another user or version, nor when any byte is changed', async () => {
    const [wrap] = v3.wraps
    if (wrap === undefined) throw new Error('the vectors hold no wrap')
    const record = recordOf(wrap)
    await refused({ ...record, userId: 'bob' })
    await refused({ ...record, version: 2 })
    await refused({ ...record, kekId: local.v2Id })
    for (let at = 0; at < record.encryptedKey.length; at++) {
      const changed = Buffer.from(record.encryptedKey)
      changed[at] = (changed[at] ?? 0) ^ 1
      await refused({ ...record, encryptedKey: changed })
    }
    for (const length of [0, 59, 61, 104]) {
      await refused({ ...record, encryptedKey: record.encryptedKey.subarray(0, length) })
    }
  })

  it('are refused without a KEK id, and where v2 alone is accepted', async () => {
    const [wrap] = v3.wraps
    if (wrap === undefined) throw new Error('the vectors hold no wrap')
    await refused({ ...recordOf(wrap), kekId: null })
    await expect(unwrapDataKey(keyring, recordOf(wrap), ['v2'])).rejects.toMatchObject({
      code: 'ERR_FORMAT_NOT_ACCEPTED',
    })
  })
})
