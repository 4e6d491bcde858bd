// (c) Minting: the keys of many new users, one by one and all at once, in durable databases (SQLite with synchronous=FULL).
import { randomBytes } from 'node:crypto'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, localMasterKey } from '../../dist/index.js'
import { DIALECTS, freshDatabase, keep } from '../databases.mjs'
import { millis, summarized } from '../race.mjs'

export const title = 'Minting'
export const about =
  'The keys of new users, in durable databases (SQLite with synchronous=FULL, Postgres with fsync).'

export async function measure({ longRounds, progress, postgresUrl, isQuick }) {
  const count = isQuick ? 1000 : 10_000
  const groups = []
  for (const dialect of DIALECTS) {
    const measured = []
    for (let round = 0; round < longRounds; round += 1) {
      progress(`${dialect}: ${count} users, round ${round + 1} of ${longRounds}`)
      const fresh = await freshDatabase(dialect, postgresUrl)
      const store = await openKeyStore(fresh.url, fresh.options)
      keep(store)
      const envelope = await EnvelopeCrypto.open({ store, masterKeys: localMasterKey(randomBytes(32)) })
      const perKey = async (work) => ((await millis(work)) * 1000) / count
      const oneByOne = async () => {
        for (let i = 0; i < count; i += 1) await envelope.getOrCreateUserKey(`one-${i}`)
      }
      const atOnce = () =>
        Promise.all(Array.from({ length: count }, (_, i) => envelope.getOrCreateUserKey(`many-${i}`)))
      measured.push({ 'one by one': await perKey(oneByOne), 'all at once': await perKey(atOnce) })
      await envelope.close()
      await fresh.remove()
    }
    const contestants = [{ name: 'one by one' }, { name: 'all at once', against: 'one by one', atMost: 0.1 }]
    groups.push({ group: `${dialect}, ${count} users`, rows: summarized(contestants, measured) })
  }
  return groups
}
