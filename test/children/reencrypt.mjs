// Sweeps the table credentials. Prints "page" after each page, and its report at the end.
//
//   node reencrypt.mjs URL BATCH_SIZE
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, masterKeysFromEnv } from '../../dist/index.js'
import { reencrypt, sqlSource } from '../../dist/reencrypt/index.js'

const [url, batchSize] = process.argv.slice(2)
const accept = { keys: ['v2'], tokens: ['v2'] }
const store = await openKeyStore(url, { deadlineMs: 120_000 })
const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKeysFromEnv(), accept })
const source = await sqlSource(url, { table: 'credentials', key: 'id', owner: 'user_id', column: 'api_key' })
const report = await reencrypt({
  envelope,
  source,
  context: ({ id }) => ({ column: 'credentials.api_key', row: String(id) }),
  plaintext: true,
  batchSize: Number(batchSize),
  onProgress: () => console.log('page'),
})
await source.close()
await envelope.close()
console.log(JSON.stringify(report))
