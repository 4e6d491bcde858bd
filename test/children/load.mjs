// Encrypts, decrypts and rotates through outages of its database, until its stdin ends. Prints "ready" once it has opened its store, and then a
// line of JSON for each token that it hands out (user id, token, SHA-256 of the plaintext, `storeMs`), and for each call that fails (`code`,
// `retryable`, `message`, `storeMs`). `storeMs` is how long the slowest call of the store has taken since the line before.
//
//   node load.mjs URL PROCESS DEADLINE_MS
import { createHash, randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, masterKeysFromEnv } from '../../dist/index.js'

const [url, process_, deadlineMs] = process.argv.slice(2)
const CONTEXT = { column: 'api_key' }
let storeMs = 0
const store = timed(await openKeyStore(url, { deadlineMs: Number(deadlineMs) }))
// So short-lived that keys are read again and again.
const cache = { ttlMs: 200 }
const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKeysFromEnv(), cache })
console.log('ready')

const handedOut = []
let stopped = false
process.stdin.resume().once('end', () => {
  stopped = true
})

for (let round = 0; !stopped; round += 1) {
  const work = [
    // All processes mint this user at about the same time.
    () => encrypt(`user-${round}`),
    () => encrypt(`user-${process_}-${round}`),
    () => decryptEarlier(round),
  ]
  if (round % 4 === 3) work.push(() => rotateEarlier(round))
  await Promise.all(work.map(attempt))
  await sleep(5)
}
await envelope.close()

async function attempt(work) {
  try {
    await work()
  } catch ({ code, retryable, message }) {
    print({ code, retryable, message })
  }
}

async function encrypt(userId) {
  const plaintext = randomBytes(12).toString('hex')
  const token = await envelope.encrypt(userId, plaintext, CONTEXT)
  const handed = { userId, token, sha256: hash(plaintext) }
  print(handed)
  handedOut.push(handed)
}

async function decryptEarlier(round) {
  if (handedOut.length === 0) return
  const { userId, token, sha256 } = handedOut[(round * 31) % handedOut.length]
  const plaintext = await envelope.decrypt(userId, token, CONTEXT)
  if (hash(plaintext) !== sha256) throw new Error(`another plaintext for ${userId}`)
}

async function rotateEarlier(round) {
  if (handedOut.length === 0) return
  await envelope.rotateUserKey(handedOut[(round * 17) % handedOut.length].userId)
}

function print(line) {
  console.log(JSON.stringify({ ...line, storeMs: Math.round(storeMs) }))
  storeMs = 0
}

/** The store, whose slowest call is kept. */
function timed(inner) {
  return new Proxy(inner, {
    get(target, name) {
      const value = Reflect.get(target, name, target)
      if (typeof value !== 'function') return value
      return (...args) => {
        const started = performance.now()
        const answer = Reflect.apply(value, target, args)
        const end = () => {
          storeMs = Math.max(storeMs, performance.now() - started)
        }
        if (answer instanceof Promise) answer.then(end, end)
        return answer
      }
    },
  })
}

function hash(plaintext) {
  return createHash('sha256').update(plaintext).digest('hex')
}
