/** AWS KMS: names of keys, multi-region keys, the context, and each error code. */
import { createHash, randomBytes } from 'node:crypto'
import { KMS, KMSClient } from '@aws-sdk/client-kms'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { awsMasterKey } from '../../../src/master-keys/kms/aws.js'
import { keystoreErrorOf } from '../../support/errors.js'
import { AWS_KEY, AWS_REPLICAS, error, startAwsKms } from '../../support/kms-aws.js'
import { awsClient } from '../../support/kms-providers.js'
import { type KeyServer, startKeyServer } from '../../support/kms-server.js'

const OWNER = { userId: 'alice', version: 1, tenantId: null }
const AAD = Buffer.from('the AAD of alice')
const dataKey = randomBytes(32)

describe('awsMasterKey', () => {
  let server: KeyServer
  beforeEach(async () => {
    server = await startAwsKms()
  })
  afterEach(async () => {
    await server.close()
    expect(server.problems).toEqual([])
  })

  it('binds a wrap by a context that is the hash of the AAD, and nothing else', async () => {
    const key = awsMasterKey({ keyId: AWS_KEY, client: awsClient(server.url) })
    await key.unwrap(await key.wrap(dataKey, AAD, OWNER), AAD, OWNER)
    const context = { 'drizzle-keystore': createHash('sha256').update(AAD).digest('base64url') }
    const inputs = server.requests.map(({ body }) => JSON.parse(body))
    expect(inputs).toMatchObject([{ KeyId: AWS_KEY }, { KeyId: AWS_KEY }])
    expect(inputs.map(({ EncryptionContext }) => EncryptionContext)).toEqual([context, context])
  })

  it('takes the ARN of a key only, and its id is that', () => {
    expect(awsMasterKey({ keyId: AWS_KEY }).id).toBe(`aws-kms:${AWS_KEY}`)
    const govCloud = 'arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab'
    expect(awsMasterKey({ keyId: govCloud }).id).toBe(`aws-kms:${govCloud}`)
    const refused = [
      'alias/keystore',
      'arn:aws:kms:eu-central-1:111122223333:alias/keystore',
      '1234abcd-12ab-34cd-56ef-1234567890ab',
      'arn:aws:s3:::bucket',
      '',
    ]
    for (const keyId of refused)
      expect(() => awsMasterKey({ keyId })).toThrowError(
        expect.objectContaining({
          code: 'ERR_INVALID_ARGUMENT',
          message: expect.stringContaining('keyId must be'),
        }),
      )
    expect(() => awsMasterKey({ keyId: 'alias/keystore' })).toThrow('aws kms describe-key --key-id')
  })

  it('has one id for all replicas of a multi-region key, and each opens what another wrapped', async () => {
    const [first, second] = AWS_REPLICAS.map((keyId) =>
      awsMasterKey({ keyId, client: awsClient(server.url) }),
    )
    expect(first?.id).toBe('aws-kms:arn:aws:kms::111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab')
    expect(second?.id).toBe(first?.id)
    const wrapped = await first?.wrap(dataKey, AAD, OWNER)
    expect(Buffer.from((await second?.unwrap(wrapped ?? dataKey, AAD, OWNER)) ?? '').equals(dataKey)).toBe(
      true,
    )
  })

  it('makes a client of its own, for the region of the ARN, that asks once', async () => {
    const variables = {
      AWS_ENDPOINT_URL_KMS: server.url,
      AWS_ACCESS_KEY_ID: 'AKIDTEST',
      AWS_SECRET_ACCESS_KEY: 'x',
    }
    for (const [variable, value] of Object.entries(variables)) vi.stubEnv(variable, value)
    try {
      const key = awsMasterKey({ keyId: AWS_KEY })
      await key.wrap(dataKey, AAD, OWNER)
      expect(server.requests[0]?.headers.authorization).toContain('/eu-central-1/kms/aws4_request')
      server.fault = 'throttle'
      expect(await keystoreErrorOf(async () => key.wrap(dataKey, AAD, OWNER))).toMatchObject({
        reason: 'throttled',
      })
      expect(server.requests).toHaveLength(2)
    } finally {
      vi.unstubAllEnvs()
    }
  })

  it('says that there are no credentials, with what is to be set, and that nobody was asked', async () => {
    const client = new KMS({
      region: 'eu-central-1',
      endpoint: server.url,
      credentials: async () => {
        throw Object.assign(new Error('Could not load credentials from any providers'), {
          name: 'CredentialsProviderError',
        })
      },
    })
    const key = awsMasterKey({ keyId: AWS_KEY, client })
    const error = await keystoreErrorOf(async () => key.wrap(dataKey, AAD, OWNER))
    expect(error).toMatchObject({ reason: 'denied', providerCode: 'CredentialsProviderError' })
    expect(error.message).toContain('the SDK found no credentials that it can use, so KMS was not asked')
    expect(error.message).not.toContain('may wrap and unwrap')
    expect(server.requests).toEqual([])
  })

  it('takes a KMSClient, and no other client', async () => {
    const credentials = { accessKeyId: 'AKIDTEST', secretAccessKey: 'x' }
    const client = new KMSClient({
      region: 'eu-central-1',
      endpoint: server.url,
      credentials,
      maxAttempts: 1,
    })
    const key = awsMasterKey({ keyId: AWS_KEY, client })
    const opened = await key.unwrap(await key.wrap(dataKey, AAD, OWNER), AAD, OWNER)
    expect(Buffer.from(opened).equals(dataKey)).toBe(true)
    server.fault = 'deny'
    expect(await keystoreErrorOf(async () => key.wrap(dataKey, AAD, OWNER))).toMatchObject({
      reason: 'denied',
      providerCode: 'AccessDeniedException',
    })
    for (const other of [{}, null, 'eu-central-1'])
      expect(() => awsMasterKey({ keyId: AWS_KEY, client: other as never })).toThrow('client must be a KMS')
  })
})

describe('what AWS KMS answers', () => {
  it.each([
    ['AccessDeniedException', 400, 'denied'],
    ['DisabledException', 400, 'denied'],
    ['KMSInvalidStateException', 400, 'denied'],
    ['UnrecognizedClientException', 400, 'denied'],
    ['ExpiredTokenException', 400, 'denied'],
    ['NotFoundException', 400, 'notFound'],
    ['ThrottlingException', 400, 'throttled'],
    ['LimitExceededException', 400, 'throttled'],
    ['InvalidKeyUsageException', 400, 'wrongKey'],
    ['KMSInternalException', 500, 'unavailable'],
    ['DependencyTimeoutException', 500, 'unavailable'],
    ['KeyUnavailableException', 500, 'unavailable'],
    ['SomethingNewException', 400, 'denied'],
    ['SomethingNewException', 502, 'unavailable'],
    ['IncorrectKeyException', 400, undefined],
    ['InvalidCiphertextException', 400, undefined],
  ])('%s with status %i is %s', async (name, status, reason) => {
    const server = await startKeyServer(() => error(status, name))
    try {
      const key = awsMasterKey({ keyId: AWS_KEY, client: awsClient(server.url) })
      const failed = await keystoreErrorOf(async () => key.unwrap(randomBytes(64), AAD, OWNER))
      expect(failed).toMatchObject({
        code: reason === undefined ? 'ERR_UNWRAP_FAILED' : 'ERR_MASTER_KEY',
        reason,
        providerCode: name,
        requestId: expect.stringMatching(/^[0-9a-f-]{36}$/),
      })
      expect(failed.message).not.toContain('secret-role')
    } finally {
      await server.close()
    }
  })
})
