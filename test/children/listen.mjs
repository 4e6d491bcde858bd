// Listens to a key store, shreds one user, and does nothing else: it must end by itself. Prints how many changes were reported.
//
//   node listen.mjs URL
import { openKeyStore } from '../../dist/adapters/open.js'

const store = await openKeyStore(process.argv[2])
let told = 0
store.changes(() => {
  told += 1
})
await store.shred('alice', { forget: false })
process.on('exit', () => console.log(`told ${told}`))
