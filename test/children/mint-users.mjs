// Mints keys of the same users as its siblings at the same time. Prints "ready", begins at a line on stdin, and prints the hash of
// each user's key at the end, as one line of JSON.
//
//   node mint-users.mjs URL USERS one-by-one     through EnvelopeCrypto, in this process's own order
//   node mint-users.mjs URL USERS in-bulk ROUNDS through insertIfAbsent, all users in one call, other users each round
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, masterKeysFromEnv } from '../../dist/index.js'
import { newRow } from './new-row.mjs'

const [url, userCount, mode, rounds = '1'] = process.argv.slice(2)
// A long deadline: eight processes share few cores, and none may fail because it is slow.
const store = await openKeyStore(url, { deadlineMs: 60_000 })
const users = Array.from({ length: Number(userCount) }, (_, index) => `user-${index}`)
const hash = (bytes) => createHash('sha256').update(bytes).digest('hex')
const keys = {}

console.log('ready')
await once(process.stdin, 'data')

if (mode === 'one-by-one') {
  const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKeysFromEnv() })
  const queue = shuffled(users)
  await Promise.all(Array.from({ length: 10 }, mintOnes))
  await envelope.close()

  async function mintOnes() {
    for (let user = queue.pop(); user !== undefined; user = queue.pop()) {
      keys[user] = hash(await envelope.getOrCreateUserKey(user))
    }
  }
} else {
  for (let round = 0; round < Number(rounds); round += 1) {
    const records = shuffled(users).map((user) => newRow(`${round}:${user}`))
    const winners = await store.insertIfAbsent(records)
    winners.forEach(({ userId, encryptedKey }, index) => {
      if (records[index].userId !== userId) throw new Error(`${userId} in the place of another user`)
      keys[userId] = hash(encryptedKey)
    })
  }
  await store.close()
}
console.log(JSON.stringify(keys))
process.stdin.destroy()

function shuffled(list) {
  return list
    .map((item) => [Math.random(), item])
    .sort(([a], [b]) => a - b)
    .map(([, item]) => item)
}
