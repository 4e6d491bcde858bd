// An application at work: encrypts and decrypts until its stdin ends, for users that exist and, with "mint", for new ones and
// through rotations. Prints "ready" once it has begun, and each token that it hands out: one line of JSON, user id, token and the
// SHA-256 of the plaintext. A token counts as handed out once its line is there.
//
//   node traffic.mjs URL USERS PROCESS mint|no-mint
import { createHash, randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, masterKeysFromEnv } from '../../dist/index.js'

const [url, userCount, process_, minting] = process.argv.slice(2)
const CONTEXT = { column: 'api_key' }
// Nobody may fail for want of time: five processes share two cores with whatever else runs.
const store = await openKeyStore(url, { deadlineMs: 120_000 })
// So small and short that keys are looked up again and again.
const cache = { maxEntries: 100, ttlMs: 300 }
const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKeysFromEnv(), cache })

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
    // All processes want this one at about the same time.
    work.push(encrypt(`new-${round}`))
  }
  if (minting === 'mint' && round % 16 === 0) work.push(envelope.rotateUserKey(existing(round + 1)))
  await Promise.all(work)
  if (round === 0) console.log('ready')
  await sleep(20)
}
await envelope.close()

/** All users in turn, each process at another place. */
function existing(round) {
  return `user-${(Number(process_) * 487 + round * 7919) % Number(userCount)}`
}

async function encrypt(userId) {
  const plaintext = newPlaintext()
  handOut(userId, await envelope.encrypt(userId, plaintext, CONTEXT), plaintext)
}

/** Handles are kept: what an application began before a rewrap must go on through it. */
async function encryptInHand(round) {
  if (round % 8 === 0) handles.push(await envelope.user(existing(round + 2)))
  const handle = handles[(round * 31) % handles.length]
  const plaintext = newPlaintext()
  const token = handle.encrypt(plaintext, CONTEXT)
  handOut(handle.userId, token, plaintext)
  if (handle.decrypt(token, CONTEXT) !== plaintext) throw new Error(`another plaintext for ${handle.userId}`)
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
