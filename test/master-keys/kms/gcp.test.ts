/** Google Cloud KMS: checksums both ways, and the client's default transport, gRPC. */
import { randomBytes } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { gcpMasterKey } from '../../../src/master-keys/kms/gcp.js'
import { keystoreErrorOf } from '../../support/errors.js'
import { GCP_KEY, gcpClient, startGcpKms, startGcpKmsOverGrpc } from '../../support/kms-gcp.js'

const OWNER = { userId: 'alice', version: 1, tenantId: null }
const AAD = Buffer.from('the AAD of alice')
const dataKey = randomBytes(32)

describe('gcpMasterKey', () => {
  let server: Awaited<ReturnType<typeof startGcpKms>>
  beforeEach(async () => {
    server = await startGcpKms()
  })
  afterEach(async () => {
    await server.close()
    expect(server.problems).toEqual([])
  })

  it.each(['breakAnswer', 'unverifiedPlaintext', 'unverifiedAad'] as const)(
    'uses nothing that broke in transit: %s',
    async (mistake) => {
      const key = gcpMasterKey({ keyName: GCP_KEY, client: gcpClient(server.port) })
      const wrapped = await key.wrap(dataKey, AAD, OWNER)
      server.mistakes[mistake] = true
      const broken = {
        code: 'ERR_MASTER_KEY',
        reason: 'unavailable',
        retryable: true,
        providerCode: 'CRC_MISMATCH',
      }
      expect(await keystoreErrorOf(async () => key.wrap(dataKey, AAD, OWNER))).toMatchObject(broken)
      if (mistake === 'breakAnswer')
        expect(await keystoreErrorOf(async () => key.unwrap(wrapped, AAD, OWNER))).toMatchObject(broken)
    },
  )

  it('refuses a wrap that another key made', async () => {
    const key = gcpMasterKey({ keyName: GCP_KEY, client: gcpClient(server.port) })
    server.fault = 'otherKey'
    expect(await keystoreErrorOf(async () => key.wrap(dataKey, AAD, OWNER))).toMatchObject({
      reason: 'wrongKey',
    })
  })

  it('fails without credentials as any call does, and leaves no rejection behind that would end the process', async () => {
    vi.stubEnv('GOOGLE_APPLICATION_CREDENTIALS', '/nonexistent/credentials.json')
    const rejections: unknown[] = []
    const notice = (error: unknown) => rejections.push(error)
    process.on('unhandledRejection', notice)
    try {
      const key = gcpMasterKey({ keyName: GCP_KEY })
      for (const _ of [1, 2]) {
        const error = await keystoreErrorOf(async () => key.wrap(dataKey, AAD, OWNER))
        expect(error).toMatchObject({ code: 'ERR_MASTER_KEY' })
        expect(error.message).not.toContain('undefined')
      }
      await setImmediate()
      expect(rejections).toEqual([])
    } finally {
      process.off('unhandledRejection', notice)
      vi.unstubAllEnvs()
    }
  })

  it('takes the name of a key, not of a version', () => {
    expect(gcpMasterKey({ keyName: GCP_KEY }).id).toBe(`gcp-kms:${GCP_KEY}`)
    for (const keyName of [`${GCP_KEY}/cryptoKeyVersions/1`, 'first', GCP_KEY.slice(1)])
      expect(() => gcpMasterKey({ keyName })).toThrow('without a version')
  })
})

describe('gcpMasterKey over gRPC', () => {
  let server: Awaited<ReturnType<typeof startGcpKmsOverGrpc>>
  beforeEach(async () => {
    server = await startGcpKmsOverGrpc()
  })
  afterEach(async () => {
    await server.close()
    expect(server.problems).toEqual([])
  })

  it('wraps, unwraps, and refuses other bytes and another AAD', async () => {
    const key = gcpMasterKey({ keyName: GCP_KEY, client: server.client })
    const wrapped = await key.wrap(dataKey, AAD, OWNER)
    expect(Buffer.from(await key.unwrap(wrapped, AAD, OWNER)).equals(dataKey)).toBe(true)
    for (const [bytes, aad] of [
      [wrapped, Buffer.from('of bob')],
      [wrapped.slice(1), AAD],
    ] as const)
      expect(await keystoreErrorOf(async () => key.unwrap(bytes, aad, OWNER))).toMatchObject({
        code: 'ERR_UNWRAP_FAILED',
        providerCode: 'INVALID_ARGUMENT',
      })
  })

  it.each([
    ['deny', 'denied', 'PERMISSION_DENIED'],
    ['throttle', 'throttled', 'RESOURCE_EXHAUSTED'],
    ['notFound', 'notFound', 'NOT_FOUND'],
    ['outage', 'unavailable', 'UNAVAILABLE'],
    ['hang', 'unavailable', 'DEADLINE_EXCEEDED'],
    ['otherKey', 'wrongKey', undefined],
  ] as const)('says why: %s', async (fault, reason, providerCode) => {
    const key = gcpMasterKey({ keyName: GCP_KEY, client: server.client, timeLimitMs: 1500 })
    await key.wrap(dataKey, AAD, OWNER)
    server.control.fault = fault
    const error = await keystoreErrorOf(async () => key.wrap(dataKey, AAD, OWNER))
    expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason, providerCode })
    expect(error.message).not.toContain('secret-')
  })
})
