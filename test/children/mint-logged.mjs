// Mints keys with a key log, several users at a time, and rotates each second one. Prints a user's id once it has a token.
//
//   node mint-logged.mjs URL KEY_LOG PREFIX
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, masterKeysFromEnv } from '../../dist/index.js'

const AT_A_TIME = 8
const USERS = 5000
const [url, keyLog, prefix] = process.argv.slice(2)
const store = await openKeyStore(url, { deadlineMs: 120_000 })
const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKeysFromEnv(), keyLog })
let next = 0
await Promise.all(Array.from({ length: AT_A_TIME }, mintOnes))
await envelope.close()
console.log(JSON.stringify({ minted: USERS }))

async function mintOnes() {
  while (next < USERS) {
    const userId = `${prefix}-${next++}`
    await envelope.encrypt(userId, 'x')
    if (next % 2 === 0) await envelope.rotateUserKey(userId)
    console.log(userId)
  }
}
