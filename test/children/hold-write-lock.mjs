// Takes the write lock of a SQLite file, and keeps it until a line comes on stdin. Prints "locked" once it has the lock.
//
//   node hold-write-lock.mjs PATH
import { once } from 'node:events'
import Database from 'better-sqlite3'

const client = new Database(process.argv[2])
client.exec('begin immediate')
console.log('locked')
await once(process.stdin, 'data')
client.exec('commit')
client.close()
process.stdin.destroy()
