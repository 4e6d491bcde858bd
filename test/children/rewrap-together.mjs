// Rewraps a key store together with others. Prints "ready", waits for a line on stdin so that all begin at once, and prints its report with the
// number of wraps that it has made and the time it took.
//
//   node rewrap-together.mjs URL BATCH_SIZE
import { once } from 'node:events'
import { openKeyStore } from '../../dist/adapters/open.js'
import { rewrapAll } from '../../dist/index.js'
import { testKeyring } from './test-keyring.mjs'

const [, , url, batchSize] = process.argv
const store = await openKeyStore(url, { deadlineMs: 120_000 })
const { replaceWrapped } = store
let wraps = 0
store.replaceWrapped = (changes) => {
  wraps += changes.length
  return replaceWrapped.call(store, changes)
}
await store.list({ limit: 1 })
console.log('ready')
await once(process.stdin, 'data')
const start = performance.now()
const report = await rewrapAll({ store, masterKeys: testKeyring(), batchSize: Number(batchSize) })
const ms = performance.now() - start
await store.close()
const { user, system } = process.cpuUsage()
console.log(JSON.stringify({ ...report, wraps, ms, cpuMs: (user + system) / 1000 }))
process.stdin.destroy()
