/** The frozen vectors of wraps under tenants' keys, which another implementation has made from docs/FORMAT.md. */
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { hmacSha256, XaesKey } from '../../src/format/aead.js'
import { preAuthEncode } from '../../src/format/encoding.js'
import { localMasterKey, masterKeyring } from '../../src/index.js'
import { unwrapDataKey, wrapDataKey } from '../../src/master-keys/key-wrap.js'
import {
  parseTenantKekId,
  TenantKey,
  type TenantKeyRef,
  tenantKekId,
  tenantRow,
} from '../../src/master-keys/tenant-keys.js'
import { kekOf } from '../../src/master-keys/tenant-roots.js'
import { randomRecord } from '../support/rows.js'
import { fromHex, tenantVectors } from '../support/vectors.js'

const vectors = tenantVectors()
const keyring = masterKeyring({ primary: localMasterKey(fromHex(vectors.master_key)) })

const tenantKey = ({ tenantId, version }: TenantKeyRef): TenantKey => {
  const found = vectors.tenants.find((entry) => entry.tenant === tenantId && entry.version === version)
  if (found === undefined) throw new Error(`the vectors have no key of tenant ${tenantId}, ${version}`)
  return new TenantKey({ tenantId, version }, fromHex(found.kek))
}
const record = (userId: string, entry: { version: number; kek_id: string; wrapped: string }) =>
  randomRecord(userId, {
    version: entry.version,
    kekId: entry.kek_id,
    encryptedKey: fromHex(entry.wrapped),
  })

describe('the vectors of tenants', () => {
  it.each(vectors.tenants)('key of tenant $tenant, version $version: its row, its wrap', async (entry) => {
    const { tenant: tenantId, version } = entry
    expect(tenantRow({ tenantId, version })).toEqual({ userId: entry.user_id, version })
    const row = record(entry.user_id, entry)
    const kek = await kekOf(keyring, row, tenantKey)
    expect(kek).toBe(keyring.primary)
    const opened = await unwrapDataKey(keyring, row, ['v3'], kek)
    expect(Buffer.from(opened).toString('hex')).toBe(entry.kek)
    const aad = preAuthEncode(['drizzle-keystore/wrap/v3', entry.user_id, String(version), entry.kek_id])
    expect(aad.toString('hex')).toBe(entry.aad)
    const wrapKey = hmacSha256(fromHex(vectors.master_key), 'drizzle-keystore/wrap-key/v3')
    const again = new XaesKey(wrapKey).sealWithNonce(fromHex(entry.nonce), opened, aad)
    expect(`03${again.toString('hex')}`).toBe(entry.wrapped)
  })

  it.each(vectors.users)('key of user $user, version $version, under $kek_id', async (entry) => {
    const ref = parseTenantKekId(entry.kek_id)
    expect(ref?.tenantId).toBe(entry.tenant)
    expect(tenantKekId(ref as TenantKeyRef)).toBe(entry.kek_id)
    const row = record(entry.user, entry)
    const opened = await unwrapDataKey(keyring, row, ['v3'], await kekOf(keyring, row, tenantKey))
    expect(Buffer.from(opened).toString('hex')).toBe(entry.dek)
    const aad = preAuthEncode(['drizzle-keystore/wrap/v3', entry.user, String(entry.version), entry.kek_id])
    expect(aad.toString('hex')).toBe(entry.aad)
    const again = new XaesKey(fromHex(entry.wrap_key)).sealWithNonce(fromHex(entry.nonce), opened, aad)
    expect(`03${again.toString('hex')}`).toBe(entry.wrapped)
  })

  it.each(vectors.users)('ours of user $user, version $version, under $kek_id opens there', async (entry) => {
    const { user: userId, version, kek_id: kekId } = entry
    const kek = tenantKey(parseTenantKekId(kekId) as TenantKeyRef)
    const wrapped = await wrapDataKey(keyring, { userId, version }, fromHex(entry.dek), 'v3', kek)
    expect(wrapped.kekId).toBe(kekId)
    const bytes = Buffer.from(wrapped.encryptedKey)
    expect(bytes).toHaveLength(105)
    expect(bytes[0]).toBe(3)
    const opened = new XaesKey(fromHex(entry.wrap_key)).open(bytes.subarray(1), fromHex(entry.aad))
    expect(opened?.toString('hex')).toBe(entry.dek)
  })
})

describe('docs/FORMAT.md', () => {
  it('shows the bytes of the vectors in its worked example', () => {
    const page = readFileSync('docs/FORMAT.md', 'utf8').replace(/\s+/g, '')
    const [tenant] = vectors.tenants
    const [user] = vectors.users
    if (tenant === undefined || user === undefined) throw new Error('no vectors')
    for (const value of [
      vectors.master_key,
      vectors.kek_id,
      tenant.kek,
      user.wrap_key,
      user.dek,
      user.kek_id,
    ])
      expect(page).toContain(value)
    for (const { wrapped } of [tenant, user]) {
      const bytes = fromHex(wrapped)
      const pieces = [
        bytes.subarray(1, 25),
        bytes.subarray(25, 57),
        bytes.subarray(57, 73),
        bytes.subarray(73),
      ]
      for (const piece of pieces) expect(page).toContain(piece.toString('hex'))
    }
    expect(page).toContain('0d0000000000000074656e616e743a313a61636d65')
    expect(page).toContain(user.kek_id)
  })
})

describe('a KEK id of a tenant', () => {
  it.each([
    'tenant:0:a',
    'tenant:01:a',
    'tenant:+1:a',
    'tenant:1e1:a',
    'tenant:1:',
    'tenant:1',
    'tenant::a',
    'tenant:2147483648:a',
    'tenant:99999999999:a',
    'Tenant:1:a',
    ' tenant:1:a',
    `tenant:1:${'a'.repeat(505)}`,
    'tenant:1:\ud800',
    'local:abc',
  ])('%j is none', (kekId) => {
    expect(parseTenantKekId(kekId)).toBe(null)
  })

  it('may hold colons, and the longest version and id', () => {
    const tenantId = `:1:${'ü'.repeat(250)}x`
    const kekId = `tenant:2147483647:${tenantId}`
    expect(parseTenantKekId(kekId)).toEqual({ tenantId, version: 2_147_483_647 })
  })
})
