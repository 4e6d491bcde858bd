// Opens a key store as a user who may read its file but not write it. Prints as JSON whether the file can be written all the same, and
// the wrapped key of a user.
//
//   node read-only-open.mjs PATH USER
import { accessSync, constants } from 'node:fs'
import { sqliteKeyStore } from '../../dist/adapters/sqlite/store.js'

const [, , path, userId] = process.argv
// Loads the driver, as the store does, while this process may still read every folder.
const first = sqliteKeyStore({ path: ':memory:' })
await first.ready()
await first.close()
// root may write any file: becomes another user.
if (process.getuid() === 0) {
  process.setgroups([])
  process.setgid(65534)
  process.setuid(65534)
}
let writable = true
try {
  accessSync(path, constants.W_OK)
} catch {
  writable = false
}
// Not openKeyStore, which imports the store only now: the other user may not be able to reach our files.
const store = sqliteKeyStore({ path }, { migrate: 'check' })
const [record] = (await store.getAll([userId])).get(userId) ?? []
await store.close()
process.stdout.write(
  `${JSON.stringify({ writable, wrapped: Buffer.from(record.encryptedKey).toString('hex') })}\n`,
)
