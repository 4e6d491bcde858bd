// A clone of a process: OpenSSL's generator, and the nonces that were drawn before, are the same in each run. node:crypto cannot be
// cloned for real, so randomBytes is replaced by a stream from a fixed seed. Prints what the clone makes, as JSON.
//
// clone.mjs reseed | wait | nothing [--without-urandom]     what happens after the snapshot was restored
import crypto from 'node:crypto'
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { setTimeout } from 'node:timers/promises'

const [what, ...flags] = process.argv.slice(2)
const { createHash } = crypto
let drawn = 0
crypto.randomBytes = (length) => {
  drawn += 1
  return createHash('shake256', { outputLength: length }).update(`seed ${drawn}`).digest()
}
// Before the snapshot all is the same, which it could not be with the operating system's bytes.
let hasDevice = false
const { openSync } = fs
fs.openSync = (path, ...more) => {
  if (path === '/dev/urandom' && !hasDevice) throw Object.assign(new Error('no device'), { code: 'ENOENT' })
  return openSync(path, ...more)
}
syncBuiltinESMExports()

const { EnvelopeCrypto, encryptWithKey, generateMasterKey, localMasterKey, reseed } = await import(
  '../../dist/index.js'
)
const { memoryKeyStore } = await import('../../dist/adapters/memory.js')
const masterKeys = localMasterKey(Buffer.alloc(32, 'a master key'))
const envelope = await EnvelopeCrypto.open({ store: memoryKeyStore(), masterKeys })
const alice = await envelope.user('alice')
const nonceOf = (token, start, bytes) =>
  Buffer.from(token.slice(3), 'base64url').toString('hex', start, start + bytes)
const nonces = () => [
  nonceOf(alice.encrypt('x'), 4, 24),
  nonceOf(encryptWithKey('x', Buffer.alloc(32, 'a key')), 0, 12),
]
const before = nonces()

hasDevice = !flags.includes('--without-urandom')
if (what === 'reseed') reseed()
// The native core looks at the clock itself.
if (what === 'wait') await setTimeout(1100)
const bob = await envelope.getOrCreateUserKey('bob')
console.log(
  JSON.stringify({
    before,
    nonces: nonces(),
    keys: [generateMasterKey(), Buffer.from(bob).toString('hex')],
  }),
)
