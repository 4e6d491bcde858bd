// Opens a store at the same moment as its siblings. Prints "loaded" once its modules are loaded, opens at a line on stdin, inserts one
// row, and prints as JSON what opening has migrated.
//
//   node open-store.mjs URL OPTIONS USER        options as JSON
import { once } from 'node:events'
import 'better-sqlite3'
import 'pg'
import '../../dist/adapters/postgres/store.js'
import '../../dist/adapters/sqlite/store.js'
import { openKeyStore } from '../../dist/adapters/open.js'
import { newRow } from './new-row.mjs'

const [url, options, userId] = process.argv.slice(2)
console.log('loaded')
await once(process.stdin, 'data')
process.stdin.destroy()

const store = await openKeyStore(url, JSON.parse(options))
const report = await store.ready()
const [winner] = await store.insertIfAbsent([newRow(userId)])
if (winner?.userId !== userId) throw new Error('The store does not hold the row')
await store.close()
console.log(JSON.stringify(report))
