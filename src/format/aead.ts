/**
 * AES-256-GCM, XAES-256-GCM with key commitment, PBKDF2, HMAC, random bytes. The only file that imports node:crypto.
 *
 * No function here takes a nonce: each seal draws its own.
 */
import * as crypto from 'node:crypto'
import {
  type Cipher,
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  createSecretKey,
  type KeyObject,
  pbkdf2,
  pbkdf2Sync,
  randomBytes,
  timingSafeEqual,
} from 'node:crypto'
import { promisify } from 'node:util'
import { osRandomBytes } from './os-random.js'

export type { KeyObject }

/** Bytes of every AES key here. */
export const KEY_BYTES = 32
/** Bytes of a GCM nonce and of a GCM tag (NIST SP 800-38D §5.2.1.1, §5.2.1.2). */
export const GCM_NONCE_BYTES = 12
export const GCM_TAG_BYTES = 16
/** Bytes of an XAES-256-GCM nonce (c2sp.org/XAES-256-GCM) and of its commitment (eprint 2025/758). */
export const XAES_NONCE_BYTES = 24
export const XAES_COMMITMENT_BYTES = 32

/** A name that nobody else makes: 16 random bytes in hexadecimal digits. */
export function randomId(): string {
  return randomBytes(16).toString('hex')
}

/** A KeyObject: from Node.js 24.18 on, but for 25 and from 26.9 on, a cipher made from a Buffer costs several times as much. The caller may wipe `bytes` afterwards. */
export function importKey(bytes: Uint8Array): KeyObject {
  return createSecretKey(bytes)
}

/** A new random key: 32 bytes of OpenSSL's generator XOR 32 fresh bytes of the operating system's. One that is unpredictable is enough. */
export function generateKey(): Buffer {
  const key = randomBytes(KEY_BYTES)
  const fresh = osRandomBytes(KEY_BYTES)
  if (fresh === null) return key
  for (let i = 0; i < KEY_BYTES; i++) key[i] = at(key, i) ^ at(fresh, i)
  fresh.fill(0)
  return key
}

/** A fresh random 96-bit nonce, for a token that encrypts with AES-GCM itself and cannot be trusted to draw its own. 12 bytes, a copy. */
export function gcmNonce(): Buffer {
  const nonce = Buffer.alloc(GCM_NONCE_BYTES)
  nonce.set(takeNonce(GCM_NONCE_BYTES))
  return nonce
}

/**
 * AES-256-GCM (NIST SP 800-38D) under a fresh random 96-bit nonce.
 *
 * @returns `nonce[12]`, `ciphertext`, `tag[16]`, not joined: a long ciphertext is then never copied
 */
export function gcmEncrypt(
  key: KeyObject,
  plaintext: Uint8Array | string,
): readonly [Buffer, Buffer, Buffer] {
  const nonce = takeNonce(GCM_NONCE_BYTES)
  const cipher = createCipheriv('aes-256-gcm', key, nonce)
  return [nonce, encrypted(cipher, plaintext), cipher.getAuthTag()]
}

/** {@link gcmEncrypt}, as one. @returns `nonce[12] ‖ ciphertext ‖ tag[16]` */
export function gcmSeal(key: KeyObject, plaintext: Uint8Array | string): Buffer {
  return Buffer.concat(gcmEncrypt(key, plaintext))
}

/** In Cloudflare's workerd (2026-07) `final` fails after an update with no bytes. So there is none for an empty text. */
function encrypted(cipher: Cipher, plaintext: Uint8Array | string): Buffer {
  let ciphertext: Buffer
  if (plaintext.length === 0) ciphertext = Buffer.alloc(0)
  else if (typeof plaintext === 'string') ciphertext = cipher.update(plaintext, 'utf8')
  else ciphertext = cipher.update(plaintext)
  cipher.final()
  return ciphertext
}

/**
 * Opens what {@link gcmSeal} made; no byte of plaintext is returned before the tag is verified.
 *
 * @returns null if the key is another one or a byte was changed
 */
export function gcmOpen(key: KeyObject, sealed: Uint8Array, aad?: Uint8Array): Buffer | null {
  const tagAt = sealed.length - GCM_TAG_BYTES
  if (tagAt < GCM_NONCE_BYTES) return null
  return gcmDecrypt(
    key,
    sealed.subarray(0, GCM_NONCE_BYTES),
    sealed.subarray(GCM_NONCE_BYTES, tagAt),
    sealed.subarray(tagAt),
    aad,
  )
}

/** Without this option Node accepts a tag that was cut short. */
const WHOLE_TAG = { authTagLength: GCM_TAG_BYTES }

function gcmDecrypt(
  key: KeyObject | Uint8Array,
  nonce: Uint8Array,
  ciphertext: Uint8Array,
  tag: Uint8Array,
  aad?: Uint8Array,
): Buffer | null {
  const decipher = createDecipheriv('aes-256-gcm', key, nonce, WHOLE_TAG)
  if (aad) decipher.setAAD(aad)
  decipher.setAuthTag(tag)
  // As in `encrypted`: no update with no bytes.
  const plaintext = ciphertext.length === 0 ? Buffer.alloc(0) : decipher.update(ciphertext)
  try {
    decipher.final()
  } catch {
    plaintext.fill(0)
    return null
  }
  return plaintext
}

/** How the three blocks begin that are encrypted for each nonce: 'X' is 0x58. */
const FIRST = Buffer.of(0, 1, 0x58, 0)
const SECOND = Buffer.of(0, 2, 0x58, 0)
const COMMITMENT = Buffer.from('XCMT', 'latin1')
const ZEROS = Buffer.alloc(16)
/** Inputs of the block encryptions, written anew for each nonce. Not a pair for each key: there may be many keys. */
const BLOCKS = Buffer.alloc(48)
const TAIL = Buffer.alloc(32)

/** ECB has none. Cloudflare's workerd takes no null for it. */
const NO_IV = Buffer.alloc(0)

/**
 * A key for XAES-256-GCM (c2sp.org/XAES-256-GCM) with the key commitment of KC-XAES (eprint 2025/758, as in aws-lc).
 *
 * Holds one AES-ECB cipher for its life: making one for each token would cost as much as the token. Sealed form:
 * `nonce[24] ‖ ciphertext ‖ tag[16] ‖ commitment[32]`.
 */
export class XaesKey {
  readonly #ecb: Cipher
  /** K1 of the specification: AES(K, 0¹²⁸) doubled in GF(2¹²⁸), the CMAC subkey of NIST SP 800-38B §6.1. */
  readonly #k1: Buffer

  /** @param key 32 bytes; the caller may wipe them afterwards */
  constructor(key: Uint8Array) {
    this.#ecb = createCipheriv('aes-256-ecb', forOneCipher(key), NO_IV).setAutoPadding(false)
    this.#k1 = this.#ecb.update(ZEROS)
    double(this.#k1)
  }

  /** @returns `nonce[24]`, `ciphertext`, `tag[16]`, `commitment[32]`, not joined: a long ciphertext is then never copied */
  encrypt(plaintext: Uint8Array | string, aad: Uint8Array): readonly [Buffer, Buffer, Buffer, Buffer] {
    return this.#encryptWithNonce(takeNonce(XAES_NONCE_BYTES), plaintext, aad)
  }

  /** For published test vectors only. @internal */
  sealWithNonce(nonce: Buffer, plaintext: Uint8Array | string, aad: Uint8Array): Buffer {
    return Buffer.concat(this.#encryptWithNonce(nonce, plaintext, aad))
  }

  #encryptWithNonce(
    nonce: Buffer,
    plaintext: Uint8Array | string,
    aad: Uint8Array,
  ): readonly [Buffer, Buffer, Buffer, Buffer] {
    const { gcmKey, commitment } = this.#derive(nonce)
    const cipher = createCipheriv('aes-256-gcm', forOneCipher(gcmKey), nonce.subarray(12)).setAAD(aad)
    gcmKey.fill(0)
    return [nonce, encrypted(cipher, plaintext), cipher.getAuthTag(), commitment]
  }

  /**
   * Compares the commitment first, in constant time, and only then opens the GCM; no byte of plaintext is returned before
   * the tag is verified.
   *
   * @returns null if key, nonce, ciphertext or aad is another one
   */
  open(sealed: Uint8Array, aad: Uint8Array): Buffer | null {
    const commitmentAt = sealed.length - XAES_COMMITMENT_BYTES
    const tagAt = commitmentAt - GCM_TAG_BYTES
    if (tagAt < XAES_NONCE_BYTES) return null
    const { gcmKey, commitment } = this.#derive(sealed)
    try {
      if (!timingSafeEqual(commitment, sealed.subarray(commitmentAt))) return null
      const nonce = sealed.subarray(12, XAES_NONCE_BYTES)
      const ciphertext = sealed.subarray(XAES_NONCE_BYTES, tagAt)
      const tag = sealed.subarray(tagAt, commitmentAt)
      return gcmDecrypt(forOneCipher(gcmKey), nonce, ciphertext, tag, aad)
    } finally {
      gcmKey.fill(0)
    }
  }

  /**
   * Two calls of the kept cipher: blocks 1–3 do not depend on each other, the commitment depends on the third.
   *
   * @param nonce 24 bytes, and whatever may follow
   * @returns the GCM key, the caller's to wipe, and the commitment: 32 bytes each
   */
  #derive(nonce: Uint8Array): { gcmKey: Buffer; commitment: Buffer } {
    const k1 = this.#k1
    const blocks = BLOCKS
    for (let i = 0; i < 4; i++) {
      blocks[i] = at(FIRST, i) ^ at(k1, i)
      blocks[16 + i] = at(SECOND, i) ^ at(k1, i)
      blocks[32 + i] = at(COMMITMENT, i)
    }
    for (let i = 0; i < 12; i++) {
      const byte = at(nonce, i)
      const masked = byte ^ at(k1, 4 + i)
      blocks[4 + i] = masked
      blocks[20 + i] = masked
      blocks[36 + i] = byte
    }
    const derived = this.#ecb.update(blocks)

    const tail = TAIL
    for (let i = 0; i < 16; i++) {
      const masked = at(k1, i) ^ at(derived, 32 + i) ^ (i < 12 ? at(nonce, 12 + i) : 0)
      tail[i] = masked
      tail[16 + i] = masked
    }
    // 00 01 00 01 at the end of the first block, 00 01 00 02 at that of the second.
    tail[13] = at(tail, 13) ^ 1
    tail[15] = at(tail, 15) ^ 1
    tail[29] = at(tail, 29) ^ 1
    tail[31] = at(tail, 31) ^ 2
    return { gcmKey: derived.subarray(0, KEY_BYTES), commitment: this.#ecb.update(tail) }
  }
}

let areBytesFast: boolean | undefined

/**
 * The form in which a key is given to its only cipher, as bytes or as a KeyObject, whichever this runtime is faster with. A KeyObject costs 2–3 µs
 * to make and collect. To find out that a key is bytes costs some releases of Node.js 24 to 26 ten times as much as that, and others nothing.
 */
function forOneCipher(key: Uint8Array): Uint8Array | KeyObject {
  areBytesFast ??= measureBytes()
  return areBytesFast ? key : createSecretKey(key)
}

/** Of so many rounds the fastest counts: garbage collection and other processes only add to a round. */
const ROUNDS = 5
const CIPHERS_A_ROUND = 25

/**
 * Whether ciphers are made at least as fast from bytes as from a KeyObject of their own. It takes 1 to 3 ms. Where the clock stands still meanwhile
 * (workerd), that is yes.
 */
export function measureBytes(): boolean {
  const key = new Uint8Array(KEY_BYTES)
  const forms = [() => key, () => createSecretKey(key)]
  const fastest = forms.map(() => Number.POSITIVE_INFINITY)
  for (let round = 0; round < ROUNDS; round += 1) {
    forms.forEach((form, index) => {
      const start = performance.now()
      for (let count = 0; count < CIPHERS_A_ROUND; count += 1) createCipheriv('aes-256-ecb', form(), NO_IV)
      fastest[index] = Math.min(fastest[index] ?? 0, performance.now() - start)
    })
  }
  const [bytes = 0, keyObject = 0] = fastest
  return bytes <= keyObject
}

/** Multiplication by x in GF(2¹²⁸), in place. */
function double(block: Buffer): void {
  const carry = at(block, 0) & 0x80
  for (let i = 0; i < 16; i++) block[i] = (at(block, i) << 1) | ((block[i + 1] ?? 0) >>> 7)
  if (carry) block[15] = at(block, 15) ^ 0x87
}

function at(bytes: Uint8Array, index: number): number {
  return bytes[index] as number
}

/** HMAC-SHA256 (RFC 2104): 32 bytes. */
export function hmacSha256(key: Uint8Array | KeyObject, data: Uint8Array | string): Buffer {
  return createHmac('sha256', key).update(data).digest()
}

/** SHA-256 (FIPS 180-4) over all pieces, as if they were one. */
export function sha256(pieces: Iterable<Uint8Array | string>): Buffer {
  const hash = createHash('sha256')
  for (const piece of pieces) hash.update(piece)
  return hash.digest()
}

/** The first 64 bits of the SHA-256 of a text, as two numbers below 2³². For short texts: the quickest that node:crypto has. */
export function shortDigest(text: string): readonly [high: number, low: number] {
  const digits = hashText('sha256', text, 'hex')
  return [Number.parseInt(digits.slice(0, 8), 16), Number.parseInt(digits.slice(8, 16), 16)]
}

/** `hash` takes a third of the time that `createHash` does. Runtimes other than Node may not have it. */
const hashText =
  (crypto as Partial<typeof crypto>).hash ??
  ((algorithm: string, text: string, encoding: 'hex') => createHash(algorithm).update(text).digest(encoding))

export interface IncrementalHash {
  update(piece: Uint8Array | string): unknown
  digest(): Buffer
  /** One that goes on from here by itself. */
  copy(): IncrementalHash
}

/** {@link sha256} of pieces that arrive one by one. */
export function incrementalSha256(): IncrementalHash {
  return createHash('sha256')
}

/** Compares two secrets in constant time: its duration does not show where they differ. */
export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b)
}

const pbkdf2Async = promisify(pbkdf2)

/** PBKDF2-HMAC-SHA256 (RFC 8018 §5.2), 32 bytes. Blocks the event loop for tens of milliseconds at 100,000 rounds. */
export function pbkdf2Sha256Sync(password: Uint8Array, salt: string, rounds: number): Buffer {
  return pbkdf2Sync(password, salt, rounds, KEY_BYTES, 'sha256')
}

/** The same, on a thread of libuv's pool. */
export function pbkdf2Sha256(password: Uint8Array, salt: string, rounds: number): Promise<Buffer> {
  return pbkdf2Async(password, salt, rounds, KEY_BYTES, 'sha256')
}

/** One call of the generator for about a thousand nonces is 1.4–2 times as fast as one call for each. */
const NONCE_POOL_BYTES = 12 * 1024
const NONCE_POOL_LIFE_MS = 1000

let noncePool: Buffer = Buffer.alloc(0)
let nonceAt = 0
let noncePoolMadeAt = 0

/**
 * Random bytes for one nonce; each byte is given out once. Bytes older than a second are thrown away: a process that was frozen into a
 * virtual machine's snapshot and started twice then stops repeating nonces soon.
 */
function takeNonce(length: number): Buffer {
  const age = Date.now() - noncePoolMadeAt
  if (nonceAt + length > noncePool.length || age > NONCE_POOL_LIFE_MS || age < 0) {
    noncePool = freshNonceBytes()
    noncePoolMadeAt = Date.now()
    nonceAt = 0
  }
  nonceAt += length
  return noncePool.subarray(nonceAt - length, nonceAt)
}

/**
 * OpenSSL's bytes XOR the keystream of AES-256-CTR under a fresh key from the operating system: so many bytes of the operating system's
 * generator would cost as much as four of a hundred tokens.
 *
 * @returns bytes for about a thousand nonces, none of which was given out before
 */
export function freshNonceBytes(): Buffer {
  const bytes = randomBytes(NONCE_POOL_BYTES)
  const key = osRandomBytes(KEY_BYTES)
  if (key === null) return bytes
  // Each key is used once, so that its counter may begin at zero (NIST SP 800-38A §6.5).
  const pool = createCipheriv('aes-256-ctr', forOneCipher(key), ZEROS).update(bytes)
  key.fill(0)
  bytes.fill(0)
  return pool
}

/**
 * Drops the pooled random bytes. Call it after a snapshot of a virtual machine was restored, or a checkpointed process was continued.
 * Without it nonces are made of fresh bytes a second later, by this process's clock, which may stand still for a while after that.
 *
 * On Linux and macOS the next nonces and keys are then as unpredictable as the operating system's generator, though OpenSSL's was copied
 * with the process. Linux from 5.18 on reseeds its own where the hypervisor announces the copy (VMGENID), earlier ones and others within
 * minutes. Elsewhere (Windows, Workers) Node has no way to the operating system's generator: start processes anew after a snapshot.
 *
 * @example
 * process.on('SIGUSR2', reseed) // sent by whatever restores the snapshot
 */
export function reseed(): void {
  noncePool = Buffer.alloc(0)
  for (const forget of otherPools) forget()
}

const otherPools: (() => void)[] = []

/** @param forget throws away random bytes that are kept elsewhere: {@link reseed} calls it */
export function onReseed(forget: () => void): void {
  otherPools.push(forget)
}
