/** What is zeroed after use: plaintext that failed authentication, and every key that is derived or made. */
import type { createCipheriv, createDecipheriv, createHmac } from 'node:crypto'
import { afterAll, beforeEach, describe, expect, it, vi } from 'vitest'

/** What node:crypto has given out. */
const given = {
  /** By HMAC, with what it was made of. */
  digests: [] as { readonly of: string; readonly bytes: Buffer }[],
  /** By the AES-ECB cipher that derives keys. */
  blocks: [] as Buffer[],
  /** By ciphers of other kinds. */
  ciphertexts: [] as Buffer[],
  /** Before the tag was verified. */
  plaintexts: [] as Buffer[],
  random: [] as Buffer[],
}

/** The object itself, whose method from now on tells what it was given and gave. */
function told<Owner extends object>(
  owner: Owner,
  name: keyof Owner & string,
  tell: (out: unknown, args: readonly unknown[]) => void,
): Owner {
  const method = Reflect.get(owner, name) as (...args: unknown[]) => unknown
  const value = (...args: unknown[]) => {
    const out = Reflect.apply(method, owner, args)
    tell(out, args)
    return out
  }
  return Object.defineProperty(owner, name, { value })
}

// This file alone uses the modules with the mock: other files in the same process load others.
vi.doMock('node:crypto', async (importOriginal) => {
  const actual = await importOriginal<typeof import('node:crypto')>()
  return {
    ...actual,
    createHmac: (...args: Parameters<typeof createHmac>) => {
      const hmac = actual.createHmac(...args)
      let of = ''
      told(hmac, 'update', (_, [data]) => {
        of += Buffer.from(data as Uint8Array).toString('latin1')
      })
      return told(hmac, 'digest', (bytes) => given.digests.push({ of, bytes: bytes as Buffer }))
    },
    createCipheriv: (...args: Parameters<typeof createCipheriv>) => {
      const list = args[0] === 'aes-256-ecb' ? given.blocks : given.ciphertexts
      return told(actual.createCipheriv(...args), 'update', (bytes) => list.push(bytes as Buffer))
    },
    createDecipheriv: (...args: Parameters<typeof createDecipheriv>) =>
      told(actual.createDecipheriv(...args), 'update', (bytes) => given.plaintexts.push(bytes as Buffer)),
    randomBytes: (length: number) => {
      const bytes = actual.randomBytes(length)
      given.random.push(bytes)
      return bytes
    },
  }
})
// What the native core zeroes is not seen here: native.test.ts looks for it.
vi.stubEnv('KEYSTORE_NATIVE', '0')
vi.resetModules()
const { EnvelopeCrypto, encryptWithKey, generateMasterKey, localMasterKey, reseed } = await import(
  '../../src/index.js'
)
const { memoryKeyStore } = await import('../../src/adapters/memory.js')
const { unwrapDataKey, wrapDataKey } = await import('../../src/master-keys/key-wrap.js')
const { masterKeyring } = await import('../../src/index.js')
vi.doUnmock('node:crypto')
vi.resetModules()
afterAll(() => {
  vi.unstubAllEnvs()
  vi.resetModules()
})

const isWiped = (bytes: Buffer) => bytes.every((byte) => byte === 0)

beforeEach(() => {
  for (const list of Object.values(given)) list.length = 0
})

async function service() {
  const store = memoryKeyStore()
  const masterKeys = localMasterKey(generateMasterKey())
  const accept = { keys: ['v2', 'v3'], tokens: ['v2', 'v3'] } as const
  const envelope = await EnvelopeCrypto.open({ store, masterKeys, accept })
  return { store, masterKeys, envelope, alice: await envelope.user('alice') }
}

/** A token with one bit of its ciphertext flipped: the commitment still matches, and the tag does not. */
function changedToken(token: string, at: number): string {
  const bytes = Buffer.from(token.slice(3), 'base64url')
  bytes[at] = (bytes[at] ?? 0) ^ 1
  return token.slice(0, 3) + bytes.toString('base64url')
}

describe('plaintext that failed authentication', () => {
  it.each(['v3', 'v2'])('of a %s token is zeroed', async (format) => {
    const { envelope, alice } = await service()
    const secret = 'a secret of the user'
    const v2 = encryptWithKey(secret, await envelope.getOrCreateUserKey('alice'))
    const token = format === 'v3' ? changedToken(alice.encrypt(secret), 40) : changedToken(v2, 15)
    given.plaintexts.length = 0
    expect(() => alice.decrypt(token)).toThrow(expect.objectContaining({ code: 'ERR_DECRYPTION_FAILED' }))
    expect(given.plaintexts.map(({ length }) => length)).toEqual([secret.length])
    expect(given.plaintexts.filter((bytes) => !isWiped(bytes))).toEqual([])
  })

  it.each(['v3', 'v2'] as const)('of a wrapped key of format %s is zeroed', async (format) => {
    const keyring = masterKeyring({ primary: localMasterKey(generateMasterKey()) })
    const dataKey = Buffer.from(localMasterKey(generateMasterKey()).id.padEnd(32).slice(0, 32))
    const { encryptedKey, kekId } = await wrapDataKey(
      keyring,
      { userId: 'alice', version: 1 },
      dataKey,
      format,
    )
    const changed = Buffer.from(encryptedKey)
    changed[30] = (changed[30] ?? 0) ^ 1
    const times = { createdAt: new Date(), wrappedAt: null, shreddedAt: null }
    const record = { userId: 'alice', version: 1, encryptedKey: changed, kekId, ...times }
    given.plaintexts.length = 0
    await expect(unwrapDataKey(keyring, record, ['v2', 'v3'])).rejects.toMatchObject({
      code: 'ERR_UNWRAP_FAILED',
    })
    expect(given.plaintexts.map(({ length }) => length)).toEqual([32])
    expect(given.plaintexts.filter((bytes) => !isWiped(bytes))).toEqual([])
  })
})

describe('keys', () => {
  const digestsOf = (label: string) =>
    given.digests.filter(({ of }) => of.includes(label)).map(({ bytes }) => bytes)

  it.each(['wrap-key/v3', 'token-key/v3', 'fingerprint/v1'])(
    'that are derived by HMAC are zeroed: %s',
    async (label) => {
      const { alice } = await service()
      alice.decrypt(alice.encrypt('x', { a: 'b' }), { a: 'b' })
      alice.fingerprint('value', { name: 'n' })
      const keys = digestsOf(`drizzle-keystore/${label}`)
      expect(keys.length).toBeGreaterThan(0)
      expect(keys.filter((bytes) => bytes.length !== 32 || !isWiped(bytes))).toEqual([])
    },
  )

  it('of each GCM call are zeroed, when it succeeds, when it fails and when the commitment does', async () => {
    const { alice } = await service()
    const token = alice.encrypt('x')
    const end = Buffer.from(token.slice(3), 'base64url').length - 1
    const calls: Record<string, () => unknown> = {
      encrypt: () => alice.encrypt('x'),
      decrypt: () => alice.decrypt(token),
      'wrong tag': () => alice.decrypt(changedToken(token, 28)),
      'wrong commitment': () => alice.decrypt(changedToken(token, end)),
    }
    for (const [name, call] of Object.entries(calls)) {
      given.blocks.length = 0
      try {
        call()
      } catch (error) {
        expect(error).toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
      }
      // Two blocks of the GCM key and one of the commitment, then the commitment.
      expect(
        given.blocks.map(({ length }) => length),
        name,
      ).toEqual([48, 32])
      expect(given.blocks[0]?.subarray(0, 32).equals(Buffer.alloc(32)), name).toBe(true)
      expect(given.blocks[1]?.equals(Buffer.alloc(32)), name).toBe(false)
    }
  })

  it('that are made or unwrapped are zeroed, and so is what nonces are mixed from', async () => {
    const { store, masterKeys, envelope } = await service()
    given.random.length = 0
    await envelope.encryptMany(['bob', 'carol'].map((userId) => ({ userId, plaintext: 'x' })))
    await envelope.rotateUserKey('bob')
    const made = given.random.filter(({ length }) => length === 32)
    expect(made).toHaveLength(3)
    expect(made.filter((bytes) => !isWiped(bytes))).toEqual([])

    given.plaintexts.length = 0
    const other = await EnvelopeCrypto.open({ store, masterKeys })
    await other.encrypt('bob', 'x')
    await other.encrypt('carol', 'x')
    expect(given.plaintexts.length).toBeGreaterThan(2)
    expect(given.plaintexts.filter((bytes) => bytes.length !== 32 || !isWiped(bytes))).toEqual([])

    given.random.length = 0
    reseed()
    await other.encrypt('bob', 'x')
    const pools = given.random.filter(({ length }) => length > 32)
    expect(pools).toHaveLength(1)
    // Where the operating system's bytes can be read, these are only one half of the nonces.
    if (process.platform !== 'win32') expect(pools.filter((bytes) => !isWiped(bytes))).toEqual([])
  })
})
