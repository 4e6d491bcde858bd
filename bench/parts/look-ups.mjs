// (b) Cold look-ups: users whose key is in the table and not in memory, 1, 10 and 100 at a time, against one query a key. All of them
// unwrap the key. "The adapter" is the store alone, without the service and its cache.
import { randomBytes } from 'node:crypto'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, localMasterKey } from '../../dist/index.js'
import { DIALECTS, freshDatabase, keep } from '../databases.mjs'
import { race } from '../race.mjs'
import { importSource } from '../source.mjs'

const { preAuthEncode } = await importSource('format/encoding.ts')

export const title = 'Look-ups'
export const about =
  'The keys are in the table and not in memory. The heading says for how many users they are wanted at a time. Every candidate unwraps the key. "The adapter" is the store alone, without the service and its cache.'

const USERS = 20_000
/** So few that no user is still in memory when its turn comes again. */
const CACHE = { maxEntries: 500 }
const AT_MOST = { 'sqlite 1, the adapter': 1.3, 'postgres 100': 0.25 }

export async function measure({ rounds, progress, postgresUrl }) {
  const groups = []
  for (const dialect of DIALECTS) {
    progress(`${dialect}: ${USERS} users`)
    const fresh = await freshDatabase(dialect, postgresUrl)
    const masterKeys = localMasterKey(randomBytes(32))
    const store = await openKeyStore(fresh.url, fresh.options)
    keep(store)
    const envelope = await EnvelopeCrypto.open({ store, masterKeys, cache: CACHE })
    const users = Array.from({ length: USERS }, (_, i) => `user-${i}-${randomBytes(6).toString('hex')}`)
    await Promise.all(users.map((userId) => envelope.getOrCreateUserKey(userId)))
    const oneQuery = queryAndUnwrap(dialect, fresh.client, masterKeys)
    let next = 0
    const nextUsers = (count) => Array.from({ length: count }, () => users[next++ % USERS])

    for (const atOnce of [1, 10, 100]) {
      progress(`${dialect}: ${atOnce} at a time`)
      const work = (look) => async (times) => {
        for (let i = 0; i < times; i += 1) await look(nextUsers(atOnce))
      }
      const each = (look) => work((userIds) => Promise.all(userIds.map(look)))
      const contestants = [
        { name: 'one query a key', run: each(oneQuery(false)) },
        {
          name: 'the adapter',
          run: work(async (userIds) => {
            for (const record of (await store.getActive(userIds)).values()) unwrapped(masterKeys, record)
          }),
          against: 'one query a key',
          atMost: AT_MOST[`${dialect} ${atOnce}, the adapter`],
        },
        {
          name: 'getOrCreateUserKey',
          run: each((userId) => envelope.getOrCreateUserKey(userId)),
          against: 'one query a key',
          atMost: AT_MOST[`${dialect} ${atOnce}`],
        },
        {
          name: 'user',
          run: each((userId) => envelope.user(userId, { mint: false })),
          against: 'one query a key',
        },
      ]
      if (dialect === 'postgres')
        contestants.splice(1, 0, {
          name: 'one query a key, a named statement',
          run: each(oneQuery(true)),
          against: 'one query a key',
        })
      const rows = await race(contestants, { rounds, sliceMs: 50, ofWall: true })
      // A race times one call of each; here a call is `atOnce` look-ups.
      for (const row of rows) {
        row.micros /= atOnce
        row.cpuMicros /= atOnce
      }
      groups.push({ group: `${dialect}, ${atOnce} at a time`, rows })
    }
    await envelope.close()
    await fresh.remove()
  }
  return groups
}

/** What a program without this library would do for one key: a query, and the unwrapping. */
function queryAndUnwrap(dialect, client, masterKey) {
  const text = 'select * from encryption_keys where user_id = $1 order by version desc limit 1'
  const recordOf = ({ user_id: userId, version, encrypted_key: encryptedKey, kek_id: kekId }) => ({
    userId,
    version,
    encryptedKey,
    kekId,
  })
  if (dialect === 'sqlite') {
    const statement = client.prepare(text.replace('$1', '?'))
    return () => async (userId) => unwrapped(masterKey, recordOf(statement.get(userId)))
  }
  return (isNamed) => async (userId) => {
    const query = { text, values: [userId], ...(isNamed ? { name: 'one' } : {}) }
    return unwrapped(masterKey, recordOf((await client.query(query)).rows[0]))
  }
}

function unwrapped(masterKey, { userId, version, encryptedKey, kekId }) {
  const aad = preAuthEncode(['drizzle-keystore/wrap/v3', userId, String(version), kekId])
  return masterKey.unwrap(encryptedKey, aad)
}
