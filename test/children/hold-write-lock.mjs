// Takes the write lock of a SQLite file, and keeps it until a line comes on stdin. Prints "locked" once it has the lock. An exclusive lock
// keeps readers out too, unless the file has a write-ahead log.
//
//   node hold-write-lock.mjs PATH [immediate|exclusive]
import { once } from 'node:events'
import Database from 'better-sqlite3'

const client = new Database(process.argv[2])
client.exec(`begin ${process.argv[3] ?? 'immediate'}`)
console.log('locked')
await once(process.stdin, 'data')
client.exec('commit')
client.close()
process.stdin.destroy()
