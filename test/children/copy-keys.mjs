// Copies one key store into another. Prints "page" after each page that it has copied, and its report at the end.
//
//   node copy-keys.mjs FROM TO BATCH_SIZE
import { openKeyStore } from '../../dist/adapters/open.js'
import { copyKeys } from '../../dist/index.js'

const [fromUrl, toUrl, batchSize] = process.argv.slice(2)
const from = await openKeyStore(fromUrl, { deadlineMs: 120_000 })
const to = await openKeyStore(toUrl, { deadlineMs: 120_000 })
const report = await copyKeys({
  from,
  to,
  batchSize: Number(batchSize),
  onProgress: ({ phase }) => phase === 'copying' && console.log('page'),
})
await from.close()
await to.close()
console.log(JSON.stringify(report))
