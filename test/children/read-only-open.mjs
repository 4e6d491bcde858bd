// Opens a key store as a user who may read its file and not write it. Arguments: the path, a user id.
// Prints one line of JSON: whether the file could be written all the same, and the wrapped key found.
import { accessSync, constants } from 'node:fs'
import { openKeyStore } from '../../dist/adapters/open.js'
import '../../dist/adapters/sqlite/store.js'
import Database from 'better-sqlite3'

const [, , path, userId] = process.argv
// Loads the native module while this process may still read every folder.
new Database(':memory:').close()
// No mode keeps root from writing.
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
const store = await openKeyStore(path, { migrate: 'check' })
const [record] = (await store.getAll([userId])).get(userId) ?? []
await store.close()
process.stdout.write(
  `${JSON.stringify({ writable, wrapped: Buffer.from(record.encryptedKey).toString('hex') })}\n`,
)
