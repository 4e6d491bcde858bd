// (a) Tokens: v2 and v3 of a user whose key is in memory, beside node:crypto without any encoding and as base64url, and beside the peers.
// Everybody encrypts the same string and gives it back: node:crypto as nonce, ciphertext and tag, others in their own form.
import { createCipheriv, createDecipheriv, createSecretKey, randomBytes } from 'node:crypto'
import { addon, packageWith } from '../cores.mjs'
import { allPeers } from '../peers.mjs'
import { awaited, race, sync } from '../race.mjs'

export const title = 'Tokens'
export const about =
  'The user’s key is in memory. Every candidate encrypts or decrypts the same string. node:crypto writes nonce, ciphertext and tag without any encoding, and in the row below it as base64url text. The other libraries write their own form. v2 and v3 use a handle of `envelope.user()`; "awaited" is `await envelope.encrypt(…)`. "native" has the core of `@drizzle-keystore/native`, all others JavaScript\'s; "v3 in a loop of C++" is the same work without JavaScript: the limit.'

const SIZES = { '32 B': 32, '1 KiB': 1024, '64 KiB': 65_536, '1 MiB': 1_048_576 }
/** At most, against node:crypto (v2), v2 (v3), the handle (awaited). */
const V2_ENCRYPT = { '32 B': 1.35, '64 KiB': 1.6 }
const V2_DECRYPT = { '32 B': 1.5, '64 KiB': 1.6 }
const V3_OF_V2 = { '32 B': 1.7, '1 KiB': 1.4, '64 KiB': 1.1 }
const AWAITED_OF_HANDLE = 1.25
/** The native core against node:crypto; and its loop against it, which is half of its time at least. */
const NATIVE = { '32 B': 0.3, '1 KiB': 0.7 }
const LOOP_OF_NATIVE = { '32 B': 0.5 }
/** Peers are authenticated, every one: each is to be slower. Compared the other way round: v3 against the peer. */
const SLOWER = { '32 B': 1, '1 KiB': 1 }

export async function measure({ rounds, progress }) {
  const javascript = await packageWith('javascript')
  const v2 = await opened(javascript, 'v2')
  const v3 = await opened(javascript, 'v3')
  const native = addon === null ? null : await nativeHandles()
  if (native === null) progress('the native core is not built: node scripts/build-native.mjs --limit')
  const v2Handle = await v2.user('alice')
  const v3Handle = await v3.user('alice')
  const key = createSecretKey(randomBytes(32))
  const peers = allPeers()
  const groups = []
  for (const [size, bytes] of Object.entries(SIZES)) {
    const text = randomBytes(bytes / 2).toString('hex')

    progress(`encrypt ${size}`)
    const encrypt = {
      raw: () => seal(key, text),
      encoded: () => sealAsText(key, text),
      v2: () => v2Handle.encrypt(text),
      v3: () => v3Handle.encrypt(text),
      awaited: () => v3.encrypt('alice', text),
      native: native && {
        v2: () => native.v2.encrypt(text),
        v3: () => native.v3.encrypt(text),
        awaited: () => native.service.encrypt('alice', text),
        loop: (times) => addon.limit('seal', bytes, times),
      },
      theirs: peers.map((peer) => ({ ...peer, run: () => peer.encrypt(text) })),
    }
    groups.push({ group: `encrypt ${size}`, rows: await raced(encrypt, size, V2_ENCRYPT[size], rounds) })

    progress(`decrypt ${size}`)
    const sealed = seal(key, text)
    const sealedText = sealAsText(key, text)
    const v2Token = v2Handle.encrypt(text)
    const v3Token = v3Handle.encrypt(text)
    const [nativeV2Token, nativeV3Token] = [native?.v2.encrypt(text), native?.v3.encrypt(text)]
    const theirs = []
    for (const peer of peers) {
      const encrypted = await peer.encrypt(text)
      if ((await peer.decrypt(encrypted)) !== text) throw new Error(`${peer.name} did not open what it made`)
      theirs.push({ ...peer, run: () => peer.decrypt(encrypted) })
    }
    const decrypt = {
      raw: () => open(key, sealed),
      encoded: () => openText(key, sealedText),
      v2: () => v2Handle.decrypt(v2Token),
      v3: () => v3Handle.decrypt(v3Token),
      awaited: () => v3.decrypt('alice', v3Token),
      native: native && {
        v2: () => native.v2.decrypt(nativeV2Token),
        v3: () => native.v3.decrypt(nativeV3Token),
        awaited: () => native.service.decrypt('alice', nativeV3Token),
        loop: (times) => addon.limit('open', bytes, times),
      },
      theirs,
    }
    groups.push({ group: `decrypt ${size}`, rows: await raced(decrypt, size, V2_DECRYPT[size], rounds) })
  }
  await v2.close()
  await v3.close()
  await native?.close()
  return groups
}

function raced({ raw, encoded, v2, v3, awaited: whenAwaited, native, theirs }, size, v2AtMost, rounds) {
  return race(
    [
      sync('node:crypto', raw),
      sync('node:crypto, base64url', encoded, { against: 'node:crypto' }),
      sync('v2', v2, { against: 'node:crypto', atMost: v2AtMost }),
      sync('v3', v3, { against: 'v2', atMost: V3_OF_V2[size] }),
      awaited('v3, awaited', whenAwaited, { against: 'v3', atMost: AWAITED_OF_HANDLE }),
      ...(native === null ? [] : nativeRows(native, size)),
      ...theirs.map(({ name, isAsync, run }) => {
        const atLeast = SLOWER[size]
        const also = native === null ? {} : { also: { against: 'v3, native', atLeast } }
        return (isAsync ? awaited : sync)(name, run, { against: 'v3', atLeast, ...also })
      }),
    ],
    { rounds },
  )
}

function nativeRows({ v2, v3, awaited: whenAwaited, loop }, size) {
  return [
    sync('v2, native', v2, { against: 'node:crypto' }),
    sync('v3, native', v3, { against: 'node:crypto', atMost: NATIVE[size] }),
    awaited('v3, native, awaited', whenAwaited, { against: 'v3, native' }),
    { name: 'v3 in a loop of C++', run: loop, against: 'v3, native', atLeast: LOOP_OF_NATIVE[size] },
  ]
}

function opened({ index, memory }, format) {
  const { EnvelopeCrypto, localMasterKey } = index
  const masterKeys = localMasterKey(randomBytes(32))
  return EnvelopeCrypto.open({ store: memory.memoryKeyStore(), masterKeys, format })
}

async function nativeHandles() {
  const copy = await packageWith('native')
  const [v2, v3] = [await opened(copy, 'v2'), await opened(copy, 'v3')]
  return {
    v2: await v2.user('alice'),
    v3: await v3.user('alice'),
    service: v3,
    close: () => Promise.all([v2.close(), v3.close()]),
  }
}

// AES-256-GCM as a program that knows node:crypto well would call it: a KeyObject, a fresh nonce from a pool, no copy, no encoding.
let pool = Buffer.alloc(0)
let poolAt = 0

function seal(key, text) {
  if (poolAt + 12 > pool.length) {
    pool = randomBytes(12 * 1024)
    poolAt = 0
  }
  poolAt += 12
  const nonce = pool.subarray(poolAt - 12, poolAt)
  const cipher = createCipheriv('aes-256-gcm', key, nonce)
  const ciphertext = cipher.update(text, 'utf8')
  cipher.final()
  return { nonce, ciphertext, tag: cipher.getAuthTag() }
}

function open(key, { nonce, ciphertext, tag }) {
  const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: 16 })
  decipher.setAuthTag(tag)
  const plaintext = decipher.update(ciphertext)
  decipher.final()
  return plaintext.toString()
}

function sealAsText(key, text) {
  const { nonce, ciphertext, tag } = seal(key, text)
  return Buffer.concat([nonce, ciphertext, tag]).toString('base64url')
}

function openText(key, sealedText) {
  const bytes = Buffer.from(sealedText, 'base64url')
  const tagAt = bytes.length - 16
  return open(key, {
    nonce: bytes.subarray(0, 12),
    ciphertext: bytes.subarray(12, tagAt),
    tag: bytes.subarray(tagAt),
  })
}
