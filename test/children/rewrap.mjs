// Rewraps a key store. Prints "first write" before its first write, and waits for a line on stdin, so that a test can let several meet
// there. Then prints "page" after each page, and its report at the end.
//
//   node rewrap.mjs URL BATCH_SIZE
import { once } from 'node:events'
import { openKeyStore } from '../../dist/adapters/open.js'
import { rewrapAll } from '../../dist/index.js'
import { testKeyring } from './test-keyring.mjs'

const [url, batchSize] = process.argv.slice(2)
const store = await openKeyStore(url, { deadlineMs: 120_000 })
const { replaceWrapped } = store
store.replaceWrapped = async (changes) => {
  store.replaceWrapped = replaceWrapped
  console.log('first write')
  await once(process.stdin, 'data')
  return store.replaceWrapped(changes)
}
const report = await rewrapAll({
  store,
  masterKeys: testKeyring(),
  batchSize: Number(batchSize),
  onProgress: ({ done }) => done > 0 && console.log('page'),
})
await store.close()
console.log(JSON.stringify(report))
process.stdin.destroy()
