// (f) Memory of a key in the cache: what the process grows by for each of many users. Runs with --expose-gc.
import { randomBytes } from 'node:crypto'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, localMasterKey } from '../../dist/index.js'
import { freshDatabase, keep } from '../databases.mjs'

export const title = 'Memory'
export const about =
  'How much memory the process takes for one user’s key in the cache. For tokens of v3 it also keeps an AES cipher.'

export async function measure({ progress, isQuick }) {
  const count = isQuick ? 10_000 : 100_000
  const rows = []
  for (const format of ['v2', 'v3']) {
    progress(format)
    const fresh = await freshDatabase('sqlite')
    const store = await openKeyStore(fresh.url)
    keep(store)
    const masterKeys = localMasterKey(randomBytes(32))
    const users = Array.from({ length: count }, (_, i) => `user-${i}`)
    const writer = await EnvelopeCrypto.open({ store, masterKeys, format, closeStore: false })
    const tokens = await writer.encryptMany(users.map((userId) => ({ userId, plaintext: 'secret' })))
    await writer.close()

    const envelope = await EnvelopeCrypto.open({ store, masterKeys, format, cache: { maxEntries: count } })
    const before = residentBytes()
    for (const userId of users) (await envelope.getOrCreateUserKey(userId)).fill(0)
    rows.push({ name: `${format}, looked up`, bytes: (residentBytes() - before) / count })
    for (const [index, userId] of users.entries()) await envelope.decrypt(userId, tokens[index].value)
    rows.push({ name: `${format}, used for a token`, bytes: (residentBytes() - before) / count })
    await envelope.close()
    await fresh.remove()
  }
  return [{ group: `${count} users`, rows }]
}

/** What OpenSSL allocates for keys and ciphers is in no figure of V8's: only the process's own size has all. */
function residentBytes() {
  for (let i = 0; i < 3; i += 1) globalThis.gc()
  return process.memoryUsage.rss()
}
