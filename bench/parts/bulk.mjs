// (d) 1,000 tokens of 1,000 users. None of their keys is in memory: decryptMany against one after the other. All are: decryptMany of either core
// against node:crypto without any encoding.
import { createCipheriv, createDecipheriv, createSecretKey, randomBytes } from 'node:crypto'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, localMasterKey } from '../../dist/index.js'
import { addon, packageWith } from '../cores.mjs'
import { DIALECTS, freshDatabase, keep } from '../databases.mjs'
import { awaited, millis, race, summarized, sync } from '../race.mjs'

export const title = 'Bulk'
export const about =
  '1,000 tokens of 1,000 users, for each token. On the databases none of their keys is in memory; in the last table all are, and node:crypto opens a nonce, a ciphertext and a tag each.'

const COUNT = 1000

export async function measure({ rounds, progress, postgresUrl }) {
  const groups = []
  progress('keys in memory')
  const cached = { group: 'keys in memory', rows: await keysInMemory(rounds, progress) }
  for (const dialect of DIALECTS) {
    progress(dialect)
    const fresh = await freshDatabase(dialect, postgresUrl)
    const store = await openKeyStore(fresh.url, fresh.options)
    keep(store)
    const masterKeys = localMasterKey(randomBytes(32))
    const users = Array.from({ length: COUNT }, (_, i) => `user-${i}`)
    const writer = await EnvelopeCrypto.open({ store, masterKeys, closeStore: false })
    const tokens = await writer.encryptMany(
      users.map((userId) => ({ userId, plaintext: randomBytes(16).toString('hex') })),
    )
    const items = users.map((userId, index) => ({ userId, token: tokens[index].value }))
    await writer.close()

    const work = {
      'one by one': async (envelope) => {
        for (const { userId, token } of items) await envelope.decrypt(userId, token)
      },
      decryptMany: async (envelope) => {
        const results = await envelope.decryptMany(items)
        if (results.some(({ ok }) => !ok)) throw new Error('a token did not open')
      },
    }
    const measured = []
    for (let round = 0; round < rounds; round += 1) {
      const micros = {}
      for (const [name, run] of Object.entries(work)) {
        const cold = await EnvelopeCrypto.open({ store, masterKeys, closeStore: false })
        micros[name] = ((await millis(() => run(cold))) * 1000) / COUNT
        await cold.close()
      }
      measured.push(micros)
    }
    await store.close()
    await fresh.remove()
    const atMost = dialect === 'postgres' ? 0.1 : undefined
    const contestants = [{ name: 'one by one' }, { name: 'decryptMany', against: 'one by one', atMost }]
    groups.push({ group: dialect, rows: summarized(contestants, measured) })
  }
  return [...groups, cached]
}

/** At most, of the native core against node:crypto. */
const NATIVE_AT_MOST = 0.4

async function keysInMemory(rounds, progress) {
  const contestants = [sync('node:crypto', rawDecrypts()), await decryptsMany('javascript')]
  if (addon === null) progress('the native core is not built: node scripts/build-native.mjs')
  else contestants.push(await decryptsMany('native'))
  const rows = await race(contestants, { rounds })
  return rows.map(({ micros, cpuMicros, ...row }) => ({
    ...row,
    micros: micros / COUNT,
    cpuMicros: cpuMicros / COUNT,
  }))
}

async function decryptsMany(core) {
  const { index, memory } = await packageWith(core)
  const envelope = await index.EnvelopeCrypto.open({
    store: memory.memoryKeyStore(),
    masterKeys: index.localMasterKey(randomBytes(32)),
  })
  const plaintexts = Array.from({ length: COUNT }, (_, i) => ({
    userId: `user-${i}`,
    plaintext: randomBytes(16).toString('hex'),
  }))
  const tokens = await envelope.encryptMany(plaintexts)
  const items = plaintexts.map(({ userId }, i) => ({ userId, token: tokens[i].value }))
  const isNative = core === 'native'
  const name = isNative ? 'decryptMany, native' : 'decryptMany'
  const more = { against: 'node:crypto', ...(isNative ? { atMost: NATIVE_AT_MOST } : {}) }
  return awaited(name, () => envelope.decryptMany(items), more)
}

function rawDecrypts() {
  const sealed = Array.from({ length: COUNT }, () => {
    const [key, nonce] = [createSecretKey(randomBytes(32)), randomBytes(12)]
    const cipher = createCipheriv('aes-256-gcm', key, nonce)
    const ciphertext = cipher.update(randomBytes(16).toString('hex'), 'utf8')
    cipher.final()
    return { key, nonce, ciphertext, tag: cipher.getAuthTag() }
  })
  return () =>
    sealed.map(({ key, nonce, ciphertext, tag }) => {
      const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: 16 })
      decipher.setAuthTag(tag)
      const plaintext = decipher.update(ciphertext)
      decipher.final()
      return plaintext.toString()
    })
}
