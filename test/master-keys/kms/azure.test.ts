/** Azure Key Vault: names of keys, the wrapped form of docs/FORMAT.md, and an identity that may not read the key. */
import { createHmac, randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { XaesKey } from '../../../src/format/aead.js'
import { azureMasterKey } from '../../../src/master-keys/kms/azure.js'
import { keystoreErrorOf } from '../../support/errors.js'
import { AZURE_NAMES, azureClient, startAzureVault } from '../../support/kms-azure.js'
import type { KeyServer } from '../../support/kms-server.js'

const OWNER = { userId: 'alice', version: 1, tenantId: null }
const AAD = Buffer.from('the AAD of alice')
const VERSION = '0123456789abcdef0123456789abcdef'
const dataKey = randomBytes(32)

describe('azureMasterKey', () => {
  let server: KeyServer
  const keyOf = ({ url } = server) => {
    const keyId = url + (AZURE_NAMES[0] ?? '')
    return azureMasterKey({ keyId, client: azureClient(keyId) })
  }
  beforeEach(async () => {
    server = await startAzureVault()
  })
  afterEach(async () => {
    await server.close()
    expect(server.problems).toEqual([])
  })

  it('wraps as docs/FORMAT.md says: 05, a length, what the service wrapped, and the data key sealed under that', async () => {
    const wrapped = Buffer.from(await keyOf().wrap(dataKey, AAD, OWNER))
    expect(wrapped[0]).toBe(0x05)
    const length = wrapped.readUInt16BE(1)
    expect([length, wrapped.length]).toEqual([256, 3 + 256 + 24 + 32 + 16 + 32])
    const client = azureClient(server.url + (AZURE_NAMES[0] ?? ''))
    const { result } = await client.unwrapKey('RSA-OAEP-256', wrapped.subarray(3, 3 + length))
    const sealing = createHmac('sha256', result).update('drizzle-keystore/azure-wrap-key/v1').digest()
    expect(new XaesKey(sealing).open(wrapped.subarray(3 + length), AAD)?.equals(dataKey)).toBe(true)
  })

  it('never shows the service the data key', async () => {
    await keyOf().wrap(dataKey, AAD, OWNER)
    const values = server.requests.flatMap(({ body }) => (body === '' ? [] : [JSON.parse(body).value]))
    expect(values).toHaveLength(1)
    expect(Buffer.from(values[0], 'base64url').equals(dataKey)).toBe(false)
  })

  it('works for an identity that may use the key and not read it', async () => {
    const strict = await startAzureVault({ mayGet: false })
    try {
      const key = keyOf(strict)
      const wrapped = await key.wrap(dataKey, AAD, OWNER)
      expect(Buffer.from(await key.unwrap(wrapped, AAD, OWNER)).equals(dataKey)).toBe(true)
      expect(strict.problems).toEqual([])
    } finally {
      await strict.close()
    }
  })

  it('takes the identifier of a version only', () => {
    const keyId = `https://example.vault.azure.net/keys/keystore/${VERSION}`
    expect(azureMasterKey({ keyId }).id).toBe(`azure-kv:${keyId}`)
    expect(
      azureMasterKey({ keyId: `https://example.managedhsm.azure.net/keys/keystore/${VERSION}` }).id,
    ).toContain('managedhsm')
    for (const refused of [
      'https://example.vault.azure.net/keys/keystore',
      `http://example.vault.azure.net/keys/keystore/${VERSION}`,
      `https://user:password@example.vault.azure.net/keys/keystore/${VERSION}`,
      `https://example.vault.azure.net/secrets/keystore/${VERSION}`,
      'keystore',
    ])
      expect(() => azureMasterKey({ keyId: refused })).toThrowError(
        expect.objectContaining({
          code: 'ERR_INVALID_ARGUMENT',
          message: expect.not.stringContaining('password@'),
        }),
      )
  })

  it('refuses a client of another key', () => {
    const [first = '', other = ''] = AZURE_NAMES
    expect(() =>
      azureMasterKey({ keyId: server.url + first, client: azureClient(server.url + other) }),
    ).toThrow('of the same key and version as keyId')
  })

  it('says that there are no credentials', async () => {
    const keyId = server.url + (AZURE_NAMES[0] ?? '')
    const getToken = async () => {
      throw Object.assign(new Error('secret details'), { name: 'CredentialUnavailableError' })
    }
    const client = azureClient(keyId, { getToken })
    const error = await keystoreErrorOf(async () =>
      azureMasterKey({ keyId, client }).wrap(dataKey, AAD, OWNER),
    )
    expect(error).toMatchObject({ reason: 'denied', providerCode: 'CredentialUnavailableError' })
    expect(error.message).not.toContain('secret details')
  })
})
