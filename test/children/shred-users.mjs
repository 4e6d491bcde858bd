// Shreds whoever has a key, several users at a time, with a key log. Prints "shredded" after each, and a report at the end.
//
//   node shred-users.mjs URL KEY_LOG
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, masterKeysFromEnv } from '../../dist/index.js'

const AT_A_TIME = 8
const [url, keyLog] = process.argv.slice(2)
const store = await openKeyStore(url, { deadlineMs: 120_000 })
const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKeysFromEnv(), keyLog })
const live = await store.list({ limit: 100_000, notKekId: '' })
const users = live.map(({ userId }) => userId)
await Promise.all(Array.from({ length: AT_A_TIME }, shredOnes))
await envelope.close()
console.log(JSON.stringify({ shredded: live.length }))

async function shredOnes() {
  for (let userId = users.pop(); userId !== undefined; userId = users.pop()) {
    await envelope.shredUser(userId)
    console.log('shredded')
  }
}
