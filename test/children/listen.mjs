// Listens to a key store, shreds one user, and once it was told of a change does nothing else: it must end by itself. Prints how many
// changes were reported.
//
//   node listen.mjs URL
import { openKeyStore } from '../../dist/adapters/open.js'

const store = await openKeyStore(process.argv[2])
let told = 0
// Listening keeps no process alive, so that it could end before it is told of anything.
const waiting = setTimeout(() => undefined, 60_000)
store.changes(() => {
  told += 1
  clearTimeout(waiting)
})
await store.shred('alice', { forget: false })
process.on('exit', () => console.log(`told ${told}`))
