// Encrypts and decrypts as an application until its stdin ends: for existing users, and with "mint" for new ones and with rotations.
// Prints "ready" once it has begun, and a line of JSON for each token that it hands out: user id, token, SHA-256 of the plaintext.
// A token counts as handed out once its line is printed.
//
//   node traffic.mjs URL USERS PROCESS mint|no-mint
import { createHash, randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto } from '../../dist/index.js'
import { testKeyring } from './test-keyring.mjs'

const [url, userCount, process_, minting] = process.argv.slice(2)
const CONTEXT = { column: 'api_key' }
// A long deadline: five processes share few cores, and none may fail because it is slow.
const store = await openKeyStore(url, { deadlineMs: 120_000 })
// So small and short-lived that keys are read again and again.
const cache = { maxEntries: 100, ttlMs: 300 }
const envelope = await EnvelopeCrypto.open({ store, masterKeys: testKeyring(), cache })

const handedOut = []
const handles = []
let stopped = false
process.stdin.resume().once('end', () => {
  stopped = true
})

for (let round = 0; !stopped; round += 1) {
  const work = [encrypt(existing(round)), encryptInHand(round), decryptEarlier(round)]
  if (minting === 'mint' && round % 4 === 0) {
    work.push(encrypt(`new-${process_}-${round}`))
    // All processes mint this user at about the same time.
    work.push(encrypt(`new-${round}`))
  }
  if (minting === 'mint' && round % 16 === 0) work.push(envelope.rotateUserKey(existing(round + 1)))
  await Promise.all(work)
  if (round === 0) console.log('ready')
  await sleep(20)
}
await envelope.close()

/** An existing user: all take turns, and each process begins at another. */
function existing(round) {
  return `user-${(Number(process_) * 487 + round * 7919) % Number(userCount)}`
}

async function encrypt(userId) {
  const plaintext = newPlaintext()
  handOut(userId, await envelope.encrypt(userId, plaintext, CONTEXT), plaintext)
}

/** Encrypts by handles that are kept: those made before a rewrap must work during it and after it. */
async function encryptInHand(round) {
  if (round % 8 === 0) handles.push(await envelope.user(existing(round + 2)))
  const at = (round * 31) % handles.length
  const plaintext = newPlaintext()
  const { handle, token } = await inHand(at, plaintext)
  handOut(handle.userId, token, plaintext)
  if (handle.decrypt(token, CONTEXT) !== plaintext) throw new Error(`another plaintext for ${handle.userId}`)
}

/** With HANDLES_MAY_END: a handle ends when its user, or the user's tenant, is moved. Then a new one is taken, as an application does. */
async function inHand(at, plaintext) {
  try {
    return { handle: handles[at], token: handles[at].encrypt(plaintext, CONTEXT) }
  } catch (error) {
    if (!process.env.HANDLES_MAY_END || error.code !== 'ERR_KEY_NOT_FOUND' || !error.retryable) throw error
    handles[at] = await envelope.user(handles[at].userId)
    return { handle: handles[at], token: handles[at].encrypt(plaintext, CONTEXT) }
  }
}

async function decryptEarlier(round) {
  if (handedOut.length === 0) return
  const { userId, token, sha256 } = handedOut[(round * 31) % handedOut.length]
  const handle = round % 2 === 0 ? await envelope.user(userId, { mint: false }) : null
  const plaintext = handle?.decrypt(token, CONTEXT) ?? (await envelope.decrypt(userId, token, CONTEXT))
  if (hash(plaintext) !== sha256) throw new Error(`another plaintext for ${userId}`)
}

function handOut(userId, token, plaintext) {
  const line = { userId, token, sha256: hash(plaintext) }
  console.log(JSON.stringify(line))
  handedOut.push(line)
}

function newPlaintext() {
  return randomBytes(12).toString('hex')
}

function hash(plaintext) {
  return createHash('sha256').update(plaintext).digest('hex')
}
