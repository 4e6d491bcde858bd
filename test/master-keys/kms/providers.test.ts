/** What every provider must hold: the conformance suite, faults of each kind, and requests and errors that tell nothing. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { awsMasterKey } from '../../../src/master-keys/kms/aws.js'
import { azureMasterKey } from '../../../src/master-keys/kms/azure.js'
import { gcpMasterKey } from '../../../src/master-keys/kms/gcp.js'
import { vaultMasterKey } from '../../../src/master-keys/kms/vault.js'
import { testMasterKey } from '../../../src/testing/index.js'
import { itIf } from '../../support/conditional.js'
import { keystoreErrorOf } from '../../support/errors.js'
import { AWS_KEY } from '../../support/kms-aws.js'
import { GCP_KEY } from '../../support/kms-gcp.js'
import { awsClient, providers, type StartedProvider } from '../../support/kms-providers.js'
import type { Fault } from '../../support/kms-server.js'
import { startVault } from '../../support/kms-vault.js'
import { expectWithout, secretForms, textForms } from '../../support/leaks.js'

const OWNER = { userId: 'alice-whom-no-provider-may-know', version: 1, tenantId: null }
const AAD = Buffer.from(`PAE of ${OWNER.userId}`)
const dataKey = randomBytes(32)
const AZURE_KEY = 'https://example.vault.azure.net/keys/keystore/0123456789abcdef0123456789abcdef'

for (const { name, start, secrets } of providers) {
  testMasterKey(
    { describe, it },
    {
      name,
      async open() {
        const { server, key, otherKey } = await start()
        const failing = (fault: Fault) => async () => {
          server.fault = fault
          return async () => {
            server.fault = null
          }
        }
        return {
          masterKey: key(),
          again: async () => key(),
          other: async () => otherKey(),
          secrets,
          failures: {
            denied: failing('deny'),
            throttled: failing('throttle'),
            notFound: failing('notFound'),
            unavailable: failing('outage'),
          },
          async close() {
            await server.close()
            expect(server.problems).toEqual([])
          },
        }
      },
    },
  )
}

it.each<[string, (options: never) => unknown, Record<string, unknown>, string]>([
  [
    'awsMasterKey',
    awsMasterKey,
    { keyId: AWS_KEY, clinet: {} },
    '"clinet" is no option of awsMasterKey: did you mean client?',
  ],
  [
    'azureMasterKey',
    azureMasterKey,
    { keyId: AZURE_KEY, credentials: {} },
    '"credentials" is no option of azureMasterKey: did you mean credential?',
  ],
  [
    'gcpMasterKey',
    gcpMasterKey,
    { keyName: GCP_KEY, timeLimit: 1 },
    '"timeLimit" is no option of gcpMasterKey: did you mean timeLimitMs?',
  ],
  [
    'vaultMasterKey',
    vaultMasterKey,
    { address: 'https://x', key: 'k', token: 't', namspace: 'a' },
    '"namspace" is no option of vaultMasterKey: did you mean namespace?',
  ],
])('%s refuses an option that there is not', (_, make, options, message) => {
  expect(() => make(options as never)).toThrow(
    expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT', message }),
  )
})

it.each([
  ['aws', (port: number) => awsMasterKey({ keyId: AWS_KEY, client: awsClient(`http://127.0.0.1:${port}`) })],
  ['vault', (port: number) => vaultMasterKey({ address: `http://127.0.0.1:${port}`, key: 'k', token: 't' })],
])('%s: nothing listens there, and the error says so', async (_, make) => {
  const server = await startVault()
  await server.close()
  const error = await keystoreErrorOf(async () => make(server.port).wrap(dataKey, AAD, OWNER))
  expect(error).toMatchObject({ reason: 'unavailable', providerCode: 'ECONNREFUSED', retryable: true })
  expect(error.message).toContain('(ECONNREFUSED)')
})

describe.each(providers)('$name', ({ name, start, secrets, tellsOtherKey }) => {
  let started: StartedProvider
  beforeEach(async () => {
    started = await start()
  })
  afterEach(async () => {
    await started.server.close()
    expect(started.server.problems).toEqual([])
  })

  // Google's client bounds a call over gRPC alone, which has tests of its own: gcp.test.ts.
  const isBounded = name !== 'gcp'
  const outages: readonly Fault[] = ['outage', 'cut', 'garbage', ...(isBounded ? (['hang'] as const) : [])]
  it.each(outages)('says that the service is unavailable: %s', async (fault) => {
    const { server, key } = started
    const masterKey = key(1500)
    const wrapped = await masterKey.wrap(dataKey, AAD, OWNER)
    server.fault = fault
    const before = server.requests.length
    for (const call of [
      () => masterKey.wrap(dataKey, AAD, OWNER),
      () => masterKey.unwrap(wrapped, AAD, OWNER),
    ]) {
      const error = await keystoreErrorOf(async () => call())
      // AWS's and Google's garbage is told by what it lacks.
      const reason = fault === 'garbage' ? expect.stringMatching(/^(unavailable|wrongKey)$/) : 'unavailable'
      expect(error).toMatchObject({ name: 'MasterKeyError', code: 'ERR_MASTER_KEY', reason })
      expectWithout([...secretForms(dataKey), ...[OWNER.userId, ...secrets].flatMap(textForms)], error)
    }
    // The core decides when a call is repeated: no SDK asks twice.
    expect(server.requests.length - before).toBe(2)
    server.fault = null
    expect(Buffer.from(await masterKey.unwrap(wrapped, AAD, OWNER)).equals(dataKey)).toBe(true)
  })

  itIf(isBounded, 'over gRPC alone: gcp.test.ts')(
    'gives up a request that nobody waits for any more',
    async () => {
      const { server, key } = started
      const masterKey = key(1500)
      await masterKey.wrap(dataKey, AAD, OWNER)
      server.fault = 'hang'
      await keystoreErrorOf(async () => masterKey.wrap(dataKey, AAD, OWNER))
      await expect.poll(() => server.hanging(), { timeout: 10_000 }).toBe(0)
    },
  )

  it('takes no bytes that are another key’s', async () => {
    const { server, key } = started
    const masterKey = key()
    const wrapped = await masterKey.wrap(dataKey, AAD, OWNER)
    server.fault = 'otherKey'
    const error = await keystoreErrorOf(async () => masterKey.unwrap(wrapped, AAD, OWNER))
    expect(error.code).toMatch(/^ERR_(MASTER_KEY|UNWRAP_FAILED)$/)
    if (tellsOtherKey && error.code === 'ERR_MASTER_KEY') expect(error).toMatchObject({ reason: 'wrongKey' })
  })

  it('lets the service know neither user nor context: requests have a hash', async () => {
    const { server, key } = started
    const masterKey = key()
    const wrapped = await masterKey.wrap(dataKey, AAD, OWNER)
    await masterKey.unwrap(wrapped, AAD, OWNER)
    expect(server.requests.length).toBeGreaterThanOrEqual(2)
    expectWithout([...textForms(OWNER.userId), ...secretForms(AAD)], server.requests)
  })

  it('says which call failed to whom its support asks: the code, and the request id where there is one', async () => {
    const { server, key } = started
    const masterKey = key()
    await masterKey.wrap(dataKey, AAD, OWNER)
    server.fault = 'deny'
    const error = await keystoreErrorOf(async () => masterKey.wrap(dataKey, AAD, OWNER))
    expect(error).toMatchObject({
      reason: 'denied',
      providerCode: expect.stringMatching(/^(AccessDeniedException|Forbidden|PERMISSION_DENIED|HTTP 403)$/),
    })
    expect(error.message).toContain('see that this identity may wrap and unwrap under the key')
    expectWithout(secrets.flatMap(textForms), error)
    expect(error.message).not.toContain('secret-')
  })
})
