// (b) Cold look-ups: users whose key is in the table and not in memory, 1, 10 and 100 at a time, against one query a key.
import { randomBytes } from 'node:crypto'
import { openKeyStore } from '../../dist/adapters/open.js'
import { preAuthEncode } from '../../dist/encoding.js'
import { EnvelopeCrypto, localMasterKey } from '../../dist/index.js'
import { DIALECTS, freshDatabase } from '../databases.mjs'
import { race } from '../race.mjs'

export const title = 'Keys that are not in memory'

const USERS = 20_000
/** So few that no user is still in memory when its turn comes again. */
const CACHE = { maxEntries: 500 }
const AT_MOST = { 'sqlite 1': 1.3, 'postgres 100': 0.25 }

export async function measure({ rounds, progress, postgresUrl }) {
  const groups = []
  for (const dialect of DIALECTS) {
    progress(`${dialect}: ${USERS} users`)
    const fresh = await freshDatabase(dialect, postgresUrl)
    const masterKeys = localMasterKey(randomBytes(32))
    const store = await openKeyStore(fresh.url, fresh.options)
    const envelope = await EnvelopeCrypto.open({ store, masterKeys, cache: CACHE })
    const users = Array.from({ length: USERS }, (_, i) => `user-${i}-${randomBytes(6).toString('hex')}`)
    await Promise.all(users.map((userId) => envelope.getOrCreateUserKey(userId)))
    const oneQuery = queryAndUnwrap(dialect, fresh.client, masterKeys)
    let next = 0
    const nextUsers = (count) => Array.from({ length: count }, () => users[next++ % USERS])

    for (const atOnce of [1, 10, 100]) {
      progress(`${dialect}: ${atOnce} at a time`)
      const work = (look) => async (times) => {
        for (let i = 0; i < times; i += 1) await Promise.all(nextUsers(atOnce).map(look))
      }
      const rows = await race(
        [
          { name: 'one query a key', run: work(oneQuery) },
          {
            name: 'getOrCreateUserKey',
            run: work((userId) => envelope.getOrCreateUserKey(userId)),
            against: 'one query a key',
            atMost: AT_MOST[`${dialect} ${atOnce}`],
          },
          {
            name: 'user',
            run: work((userId) => envelope.user(userId, { mint: false })),
            against: 'one query a key',
          },
        ],
        { rounds, sliceMs: 50 },
      )
      // A race times one call of each; here a call is `atOnce` look-ups.
      for (const row of rows) row.micros /= atOnce
      groups.push({ group: `${dialect}, ${atOnce} at a time`, rows })
    }
    await envelope.close()
    await fresh.remove()
  }
  return groups
}

/** What a program without this library would do for one key: a prepared query, and the unwrapping. */
function queryAndUnwrap(dialect, client, masterKey) {
  const unwrap = ({ user_id: userId, version, encrypted_key: wrapped, kek_id: kekId }) => {
    const aad = preAuthEncode(['drizzle-keystore/wrap/v3', userId, String(version), kekId])
    return masterKey.unwrap(wrapped, aad)
  }
  const text = 'select * from encryption_keys where user_id = $1 order by version desc limit 1'
  if (dialect === 'sqlite') {
    const statement = client.prepare(text.replace('$1', '?'))
    return async (userId) => unwrap(statement.get(userId))
  }
  return async (userId) => unwrap((await client.query({ name: 'one', text, values: [userId] })).rows[0])
}
