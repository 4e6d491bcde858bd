// Opens a store when told to, writes one key of its own through it, and reports what opening has migrated.
// Arguments: url, options as JSON, user id.
import { once } from 'node:events'
import 'better-sqlite3'
import 'pg'
import '../../dist/adapters/postgres/store.js'
import '../../dist/adapters/sqlite/store.js'
import { openKeyStore } from '../../dist/adapters/open.js'

const [url, options, userId] = process.argv.slice(2)
console.log('loaded')
await once(process.stdin, 'data')
process.stdin.destroy()

const store = await openKeyStore(url, JSON.parse(options))
const report = await store.ready()
const row = {
  userId,
  version: 1,
  encryptedKey: new Uint8Array(60),
  kekId: 'kek',
  createdAt: new Date(),
  wrappedAt: null,
  shreddedAt: null,
}
const [winner] = await store.insertIfAbsent([row])
if (winner?.userId !== userId) throw new Error('The store does not hold the row')
await store.close()
console.log(JSON.stringify(report))
