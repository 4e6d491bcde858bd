/**
 * An AES-GCM ciphertext that opens under two keys (Dodis, Grubbs, Ristenpart, Woodage: "Fast Message Franking", 2018, §3):
 * GHASH is linear in each block, so a block can be chosen for which both keys give the same tag.
 */
import { createCipheriv, createDecipheriv } from 'node:crypto'

/** Crafts a ciphertext that opens under both keys. @returns `ciphertext[16] ‖ tag[16]` */
export function openableUnderBoth(first: Buffer, second: Buffer, nonce: Buffer, aad: Buffer): Buffer {
  const lengths = Buffer.alloc(16)
  lengths.writeUInt32BE(aad.length * 8, 4)
  lengths.writeUInt32BE(128, 12)
  // Tag under one key, with one ciphertext block x: (GHASH of the AAD, then x) · H, + lengths) · H + E(J0).
  const parts = [first, second].map((key) => {
    const h = block(encrypted(key, Buffer.alloc(16)))
    let hash = 0n
    for (let at = 0; at < aad.length; at += 16) hash = times(hash ^ block(aad.subarray(at, at + 16)), h)
    const h2 = times(h, h)
    const rest = times(hash, h2) ^ times(block(lengths), h) ^ block(encrypted(key, j0(nonce)))
    return { h2, rest }
  }) as [{ h2: bigint; rest: bigint }, { h2: bigint; rest: bigint }]
  const [a, b] = parts
  const x = times(a.rest ^ b.rest, inverse(a.h2 ^ b.h2))
  const tag = times(x, a.h2) ^ a.rest
  return Buffer.concat([bytes(x), bytes(tag)])
}

/** Opens plain AES-GCM, without a commitment. */
export function gcmOpened(key: Buffer, nonce: Buffer, sealed: Buffer, aad: Buffer): Buffer {
  const decipher = createDecipheriv('aes-256-gcm', key, nonce).setAAD(aad).setAuthTag(sealed.subarray(-16))
  return Buffer.concat([decipher.update(sealed.subarray(0, -16)), decipher.final()])
}

/** The derived key Kx of XAES-256-GCM, written from the text of c2sp.org/XAES-256-GCM. */
export function gcmKeyOf(key: Buffer, nonce: Buffer): Buffer {
  const l = BigInt(`0x${encrypted(key, Buffer.alloc(16)).toString('hex')}`)
  const k1 = ((l << 1n) & ((1n << 128n) - 1n)) ^ (l >> 127n === 1n ? 0x87n : 0n)
  return Buffer.concat(
    ['00015800', '00025800'].map((prefix) => {
      const input = BigInt(`0x${prefix}${nonce.subarray(0, 12).toString('hex')}`) ^ k1
      return encrypted(key, Buffer.from(input.toString(16).padStart(32, '0'), 'hex'))
    }),
  )
}

function encrypted(key: Buffer, input: Buffer): Buffer {
  return createCipheriv('aes-256-ecb', key, null).setAutoPadding(false).update(input)
}

function j0(nonce: Buffer): Buffer {
  return Buffer.concat([nonce, Buffer.from([0, 0, 0, 1])])
}

// GF(2^128) of GCM (SP 800-38D §6.3): the first bit of a block is the lowest power.
const bits = (hex: string) =>
  BigInt(`0b${[...BigInt(`0x${hex}`).toString(2).padStart(128, '0')].reverse().join('')}`)
const block = (input: Buffer) => bits(Buffer.concat([input, Buffer.alloc(16 - input.length)]).toString('hex'))
const bytes = (value: bigint) => {
  const reversed = [...value.toString(2).padStart(128, '0')].reverse().join('')
  return Buffer.from(BigInt(`0b${reversed}`).toString(16).padStart(32, '0'), 'hex')
}

function times(a: bigint, b: bigint): bigint {
  let product = 0n
  for (let x = a, y = b; y > 0n; y >>= 1n) {
    if (y & 1n) product ^= x
    x <<= 1n
    if (x >> 128n) x ^= (1n << 128n) | 0x87n
  }
  return product
}

/** a^(2^128 − 2). */
function inverse(a: bigint): bigint {
  let result = 1n
  let square = a
  for (let i = 0; i < 127; i++) {
    square = times(square, square)
    result = times(result, square)
  }
  return result
}
