// Another process that writes to a SQLite file: takes its write lock, and keeps it until a line comes on stdin.
import { once } from 'node:events'
import Database from 'better-sqlite3'

const client = new Database(process.argv[2])
client.exec('begin immediate')
console.log('locked')
await once(process.stdin, 'data')
client.exec('commit')
client.close()
process.stdin.destroy()
