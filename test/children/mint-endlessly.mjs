// Mints a key of one user after the other until its stdin ends. Prints "ready" after the first.
//
//   node mint-endlessly.mjs URL
import { setImmediate as nextTurn } from 'node:timers/promises'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, masterKeysFromEnv } from '../../dist/index.js'

const store = await openKeyStore(process.argv[2], { deadlineMs: 60_000 })
const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKeysFromEnv() })
let stopped = false
process.stdin.resume().once('end', () => {
  stopped = true
})
for (let count = 0; !stopped; count += 1) {
  await envelope.encrypt(`minted-${count}`, 'x')
  if (count === 0) console.log('ready')
  // SQLite answers without a turn of the event loop, which is needed to see the end of stdin.
  await nextTurn()
}
await envelope.close()
