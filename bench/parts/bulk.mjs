// (d) 1,000 tokens of 1,000 users, none of whose keys is in memory: decryptMany against one after the other.
import { randomBytes } from 'node:crypto'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, localMasterKey } from '../../dist/index.js'
import { DIALECTS, freshDatabase, keep } from '../databases.mjs'
import { millis, summarized } from '../race.mjs'

export const title = 'Bulk'
export const about = '1,000 tokens of 1,000 users. None of their keys is in memory.'

const COUNT = 1000

export async function measure({ rounds, progress, postgresUrl }) {
  const groups = []
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
  return groups
}
