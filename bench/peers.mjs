// The libraries that an application would otherwise use, each as fast as its public API allows: keys are imported once, no password is
// stretched, no caching is left out. What a peer cannot do (one key a user, context, erasure) is not held against it here.

import { createSecretKey, randomBytes } from 'node:crypto'
import { createRequire } from 'node:module'
import { decryptStringSync, encryptStringSync, generateKey, parseKeySync } from '@47ng/cloak'
import {
  AlgorithmSuiteIdentifier,
  buildClient,
  CommitmentPolicy,
  getLocalCryptographicMaterialsCache,
  NodeCachingMaterialsManager,
  RawAesKeyringNode,
  RawAesWrappingSuiteIdentifier,
} from '@aws-crypto/client-node'
import { gcm } from '@noble/ciphers/aes.js'
import { managedNonce } from '@noble/ciphers/utils.js'
import { symmetricDecrypt, symmetricEncrypt } from 'better-auth/crypto'
import * as iron from 'iron-webcrypto'
import { CompactEncrypt, compactDecrypt } from 'jose'

/** @returns for each peer `{ name, encrypt(text), decrypt(encrypted), isAsync }` */
export function allPeers() {
  return [cloakPeer(), noblePeer(), josePeer(), ironPeer(), betterAuthPeer(), awsPeer()]
}

/** AES-256-GCM through webcrypto's or node's cipher, as a string. */
function cloakPeer() {
  const key = parseKeySync(generateKey())
  return {
    name: named('@47ng/cloak'),
    encrypt: (text) => encryptStringSync(text, key),
    decrypt: (encrypted) => decryptStringSync(encrypted, key),
  }
}

/** AES-256-GCM in JavaScript. Bytes in, bytes out: it is spared the encoding as text. */
function noblePeer() {
  const cipher = managedNonce(gcm)(randomBytes(32))
  return {
    name: named('@noble/ciphers'),
    encrypt: (text) => cipher.encrypt(Buffer.from(text)),
    decrypt: (encrypted) => Buffer.from(cipher.decrypt(encrypted)).toString(),
  }
}

/** A compact JWE: direct encryption, A256GCM. */
function josePeer() {
  const key = createSecretKey(randomBytes(32))
  const header = { alg: 'dir', enc: 'A256GCM' }
  return {
    name: named('jose'),
    isAsync: true,
    encrypt: (text) => new CompactEncrypt(Buffer.from(text)).setProtectedHeader(header).encrypt(key),
    decrypt: async (encrypted) => Buffer.from((await compactDecrypt(encrypted, key)).plaintext).toString(),
  }
}

/** AES-256-CBC and HMAC-SHA256, under keys instead of a password: no PBKDF2. */
function ironPeer() {
  const keys = { encryption: randomBytes(32), integrity: randomBytes(32) }
  return {
    name: named('iron-webcrypto'),
    isAsync: true,
    encrypt: (text) => iron.seal(text, keys, iron.defaults),
    decrypt: (encrypted) => iron.unseal(encrypted, { default: keys }, iron.defaults),
  }
}

/** XChaCha20-Poly1305 in JavaScript. */
function betterAuthPeer() {
  const key = randomBytes(32).toString('hex')
  return {
    name: named('better-auth'),
    isAsync: true,
    encrypt: (data) => symmetricEncrypt({ key, data }),
    decrypt: (data) => symmetricDecrypt({ key, data }),
  }
}

/** With the caching materials manager, under a local AES key, by the suite that commits to the key and does not sign. */
function awsPeer() {
  const backingMaterials = new RawAesKeyringNode({
    keyName: 'key',
    keyNamespace: 'bench',
    unencryptedMasterKey: new Uint8Array(randomBytes(32)),
    wrappingSuite: RawAesWrappingSuiteIdentifier.AES256_GCM_IV12_TAG16_NO_PADDING,
  })
  const materials = new NodeCachingMaterialsManager({
    backingMaterials,
    cache: getLocalCryptographicMaterialsCache(100),
    maxAge: 3_600_000,
  })
  const client = buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
  const suiteId = AlgorithmSuiteIdentifier.ALG_AES256_GCM_IV12_TAG16_HKDF_SHA512_COMMIT_KEY
  return {
    name: named('@aws-crypto/client-node'),
    isAsync: true,
    encrypt: async (text) =>
      (await client.encrypt(materials, text, { plaintextLength: Buffer.byteLength(text), suiteId })).result,
    decrypt: async (encrypted) => (await client.decrypt(materials, encrypted)).plaintext.toString(),
  }
}

/** With the version that is installed. */
function named(name) {
  const { version } = createRequire(import.meta.url)('./package-lock.json').packages[`node_modules/${name}`]
  return `${name} ${version}`
}
