/** Vault and OpenBao: tokens, namespaces, redirects, a server that ignores associated data, and each answer. */
import { randomBytes } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type VaultMasterKeyOptions, vaultMasterKey } from '../../../src/master-keys/kms/vault.js'
import { keystoreErrorOf } from '../../support/errors.js'
import { type KeyServer, startKeyServer } from '../../support/kms-server.js'
import { startVault, VAULT_TOKEN } from '../../support/kms-vault.js'
import { expectWithout, textForms } from '../../support/leaks.js'

const OWNER = { userId: 'alice', version: 1, tenantId: null }
const AAD = Buffer.from('the AAD of alice')
const dataKey = randomBytes(32)
const wrapped = Buffer.from(`vault:v1:${randomBytes(60).toString('base64')}`)

describe('vaultMasterKey', () => {
  let server: KeyServer
  const keyOf = (options: Partial<VaultMasterKeyOptions> = {}) =>
    vaultMasterKey({ address: server.url, key: 'first', token: VAULT_TOKEN, ...options })
  beforeEach(async () => {
    server = await startVault()
  })
  afterEach(async () => {
    await server.close()
    expect(server.problems).toEqual([])
  })

  it('keeps the ciphertext as the server writes it', async () => {
    const text = Buffer.from(await keyOf().wrap(dataKey, AAD, OWNER)).toString()
    expect(text).toMatch(/^vault:v1:[A-Za-z0-9+/]+=*$/)
  })

  it('asks a token function for each request, so that a renewed token counts', async () => {
    let asked = 0
    const key = keyOf({
      token: async () => {
        asked += 1
        return `${VAULT_TOKEN}\n`
      },
    })
    await key.unwrap(await key.wrap(dataKey, AAD, OWNER), AAD, OWNER)
    expect(asked).toBe(server.requests.length)
  })

  it.each([
    [
      'throws',
      () => Promise.reject(new Error(`login failed for ${VAULT_TOKEN}`)),
      'unavailable',
      'the function `token` failed with an error of its own',
    ],
    [
      'is refused a connection',
      () => Promise.reject(Object.assign(new Error(VAULT_TOKEN), { code: 'ECONNREFUSED' })),
      'unavailable',
      'the function `token` failed with an error of its own, which is not shown (ECONNREFUSED)',
    ],
    ['returns nothing', () => '', 'denied', 'the token is empty or no token'],
    [
      'returns what no header may hold',
      () => `${VAULT_TOKEN}\nx: y`,
      'denied',
      'the token is empty or no token',
    ],
  ])('says so when the token function %s, and shows nothing', async (_, token, reason, said) => {
    const error = await keystoreErrorOf(async () => keyOf({ token }).wrap(dataKey, AAD, OWNER))
    expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason })
    expect(error.message).toContain(said)
    expectWithout(textForms(VAULT_TOKEN), error)
    expect(server.requests).toEqual([])
  })

  it('names the namespace in each request and in its id', async () => {
    const inNamespace = await startVault({ namespace: 'teams/apps' })
    try {
      const key = keyOf({ address: inNamespace.url, namespace: 'teams/apps/' })
      expect(key.id).toBe(`vault:${inNamespace.url}/teams/apps/transit/keys/first`)
    } finally {
      await inNamespace.close()
      expect(inNamespace.problems).toEqual([])
    }
  })

  it('is refused by a server that ignores associated data, before anything is stored', async () => {
    const old = await startVault({ ignoresAad: true })
    try {
      const error = await keystoreErrorOf(async () => keyOf({ address: old.url }).wrap(dataKey, AAD, OWNER))
      expect(error).toMatchObject({ code: 'ERR_MASTER_KEY', reason: 'wrongKey', retryable: false })
      expect(error.message).toContain('ignores associated_data')
    } finally {
      await old.close()
    }
  })

  it('looks once whether the server binds, not for each wrap', async () => {
    const key = keyOf()
    for (let i = 0; i < 3; i += 1) await key.wrap(dataKey, AAD, OWNER)
    expect(server.requests.map(({ path }) => path.split('/').at(-2))).toEqual([
      'encrypt',
      'decrypt',
      'encrypt',
      'encrypt',
    ])
  })

  it('follows no redirect: the token would go to another server', async () => {
    const stolen: string[] = []
    const thief = createServer((request, response) => {
      stolen.push(String(request.headers['x-vault-token']))
      response.end()
    })
    await new Promise<void>((resolve) => thief.listen(0, '127.0.0.1', resolve))
    const location = `http://127.0.0.1:${(thief.address() as AddressInfo).port}/`
    const redirecting = await startKeyServer(() => ({ status: 307, body: {}, headers: { location } }))
    try {
      const error = await keystoreErrorOf(async () =>
        keyOf({ address: redirecting.url }).wrap(dataKey, AAD, OWNER),
      )
      expect(error).toMatchObject({ reason: 'unavailable', providerCode: 'HTTP 307' })
      expect(stolen).toEqual([])
    } finally {
      await redirecting.close()
      thief.close()
    }
  })

  it('takes https, and http for this machine alone', () => {
    const id = (address: string) => keyOf({ address }).id
    expect(id('https://vault.example.com:8200/')).toBe(
      'vault:https://vault.example.com:8200/transit/keys/first',
    )
    expect(id('http://localhost:8200')).toBe('vault:http://localhost:8200/transit/keys/first')
    for (const address of [
      'http://vault.example.com',
      'http://127.0.0.1.example.com',
      'vault.example.com',
      'ftp://127.0.0.1',
    ])
      expect(() => id(address)).toThrowError(expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }))
    expect(() => id('https://root:hunter2hunter2@vault.example.com')).toThrowError(
      expect.objectContaining({ message: expect.not.stringContaining('hunter2') }),
    )
    for (const key of ['', 'a/b', '..', 'a?b', 'a b'])
      expect(() => keyOf({ key })).toThrowError(expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }))
    expect(() => keyOf({ mount: '../sys' })).toThrowError(
      expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }),
    )
  })

  it.each([
    [{ address: 'https://vault.example.com:8200/v1' }, 'address'],
    [{ address: 'https://vault.example.com:8200/v1/' }, 'address'],
    [{ address: 'https://vault.example.com:8200/v1/transit' }, 'address'],
    [{ mount: 'v1/transit' }, 'mount'],
    [{ mount: '/v1' }, 'mount'],
  ])('refuses what is copied from a request, before it is in an id for ever: %j', (options, name) => {
    expect(() => keyOf(options)).toThrow(
      expect.objectContaining({
        code: 'ERR_INVALID_ARGUMENT',
        message: expect.stringContaining(`${name} must not begin with /v1`),
      }),
    )
    expect(keyOf({ address: 'https://vault.example.com/v10' }).id).toContain('/v10/transit')
  })

  it('says at a 404 what was asked: the mount or the address is wrong', async () => {
    const server = await startKeyServer(() => ({ status: 404, body: { errors: [] } }))
    try {
      const key = keyOf({ address: server.url, mount: 'kv' })
      const error = await keystoreErrorOf(async () => key.wrap(dataKey, AAD, OWNER))
      expect(error).toMatchObject({ reason: 'notFound', providerCode: 'HTTP 404' })
      expect(error.message).toContain(
        `nothing is at ${server.url}/v1/kv/encrypt/first: check that the mount is that of a Transit engine`,
      )
    } finally {
      await server.close()
    }
  })

  it('keeps its id when the address has changed', async () => {
    const before = keyOf({ id: 'vault:https://old.example.com/transit/keys/first' })
    expect(before.id).toBe('vault:https://old.example.com/transit/keys/first')
    expect(() => keyOf({ id: 'first' })).toThrow('id must be a string that begins with vault:')
  })
})

describe('what Vault answers', () => {
  it.each([
    [400, 'cipher: message authentication failed', undefined],
    [400, 'invalid ciphertext: no prefix', undefined],
    [400, 'ciphertext or signature version is disallowed by policy (too old)', 'denied'],
    [400, 'encryption key not found', 'notFound'],
    [403, 'permission denied', 'denied'],
    [404, 'no handler for route', 'notFound'],
    [412, 'required index state not present', 'unavailable'],
    [429, 'rate limit quota exceeded', 'throttled'],
    [472, '', 'unavailable'],
    [500, 'internal error', 'unavailable'],
    [502, 'bad gateway', 'unavailable'],
    [503, 'Vault is sealed', 'unavailable'],
  ])('%i %s', async (status, text, reason) => {
    const server = await startKeyServer(() => ({ status, body: { errors: [`${text} ${VAULT_TOKEN}`] } }))
    try {
      const key = vaultMasterKey({ address: server.url, key: 'first', token: VAULT_TOKEN })
      const error = await keystoreErrorOf(async () => key.unwrap(wrapped, AAD, OWNER))
      const code = reason === undefined ? 'ERR_UNWRAP_FAILED' : 'ERR_MASTER_KEY'
      expect(error).toMatchObject({ code, reason, providerCode: `HTTP ${status}` })
      expectWithout(textForms(VAULT_TOKEN), error)
    } finally {
      await server.close()
    }
  })
})
