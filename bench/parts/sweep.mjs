// (e) The sweep: v2 tokens of the Python reference, ten to a user, become v3; beside its crypto alone, by number of rows, with memory.
//
// "Crypto alone" is the same work without a table and with the keys in hand: open each token, encrypt it anew, open that again and
// compare. It is timed right before and after each run, because machines drift, and always in JavaScript's core. The time of a sweep includes the look that it ends with,
// at all rows once more.
import { randomBytes } from 'node:crypto'
import { packageWith } from '../cores.mjs'
import { DIALECTS, freshDatabase, keep } from '../databases.mjs'
import { growth, measureSizes, WARM_PAGES } from '../long-work.mjs'
import { timed } from '../race.mjs'

export const title = 'Sweep'
export const about =
  'v2 tokens of the Python reference, ten to a user, become v3. "Its crypto alone" is the same work without a table and with the keys in memory: decrypt each token, encrypt it again, decrypt the result and compare, always in JavaScript’s core; "native" beside it is the same in the native one. The sweep’s time includes its last pass over all rows, which finds nothing left to do.'

const PAGE = 1000
const ROWS_OF_A_USER = 10
const CONTEXT = { column: 'credentials.api_key' }
/** So small that it is full after the first pages: what grows then is the sweep's own. */
const CACHE = { maxEntries: WARM_PAGES * (PAGE / ROWS_OF_A_USER) }

/** At most, against the crypto alone in JavaScript's core: also of the native core's sweep, most of which is the database's. */
const TO_CRYPTO = { javascript: 2.2, native: 1.7 }

export function measure(options) {
  return measureWith('javascript', options)
}

/** @param core 'javascript' or 'native' */
export async function measureWith(core, options) {
  const javascript = await packageWith('javascript')
  const ours = core === 'javascript' ? javascript : await packageWith(core)
  const { EnvelopeCrypto, localMasterKey } = ours.index
  const { openKeyStore } = await ours.load('adapters/open.js')
  const { reencrypt, sqlSource } = await ours.load('reencrypt/index.js')
  return measureSizes('rows', DIALECTS, { ...options, toCrypto: TO_CRYPTO[core] }, async (dialect, count) => {
    const fresh = await freshDatabase(dialect, options.postgresUrl)
    const store = await openKeyStore(fresh.url, fresh.options)
    keep(store)
    const accept = { keys: ['v2'], tokens: ['v2'] }
    const masterKeys = localMasterKey(randomBytes(32))
    const envelope = await EnvelopeCrypto.open({ store, masterKeys, accept, cache: CACHE })
    await fill(dialect, fresh.client, newRows(ours, envelope, count))
    const columns = { table: 'credentials', key: 'id', owner: 'user_id', column: 'api_key' }
    const source = await sqlSource(fresh.url, { ...columns, ...fresh.options })
    keep(source)
    try {
      const cryptoBefore = await cryptoAlone(javascript)
      const memory = growth()
      let report
      const { wallMs, cpuMs } = await timed(async () => {
        const work = { envelope, source, context: CONTEXT, batchSize: PAGE, onProgress: memory.page }
        report = await reencrypt(work)
      })
      if (report.changed !== count || report.left !== 0)
        throw new Error(`${report.changed} of ${count} rows were swept`)
      return {
        micros: (wallMs * 1000) / count,
        cpuMicros: (cpuMs * 1000) / count,
        cryptoMicros: (cryptoBefore + (await cryptoAlone(javascript))) / 2,
        ...(core === 'native' && { ownCryptoMicros: await cryptoAlone(ours) }),
        growthBytes: memory.bytes(),
      }
    } finally {
      await source.close()
      await envelope.close()
      await fresh.remove()
    }
  })
}

/** By thousands: memory is measured, and must not hold all of them. */
async function* newRows({ index: { encryptWithKey } }, envelope, count) {
  for (let user = 0, id = 0; id < count; ) {
    const userIds = Array.from({ length: PAGE / ROWS_OF_A_USER }, () => `user-${user++}`)
    const keys = await Promise.all(userIds.map((userId) => envelope.getOrCreateUserKey(userId)))
    const rows = userIds.flatMap((userId, index) =>
      Array.from({ length: ROWS_OF_A_USER }, () => [id++, userId, encryptWithKey(newSecret(), keys[index])]),
    )
    yield rows.slice(0, count - rows[0][0])
  }
}

async function fill(dialect, client, pages) {
  const table = 'create table credentials (id integer primary key, user_id text, api_key text)'
  if (dialect === 'sqlite') {
    client.exec(table)
    const insert = client.prepare('insert into credentials values (?, ?, ?)')
    const insertAll = client.transaction((rows) => {
      for (const row of rows) insert.run(...row)
    })
    for await (const rows of pages) insertAll(rows)
    return
  }
  await client.query(table)
  const insert = 'insert into credentials select * from unnest($1::int[], $2::text[], $3::text[])'
  for await (const rows of pages)
    await client.query(
      insert,
      [0, 1, 2].map((at) => rows.map((row) => row[at])),
    )
  await client.query('vacuum analyze credentials')
}

/** @returns microseconds of processor time a value */
async function cryptoAlone({ index: { EnvelopeCrypto, encryptWithKey, localMasterKey }, memory }) {
  const envelope = await EnvelopeCrypto.open({
    store: memory.memoryKeyStore(),
    masterKeys: localMasterKey(randomBytes(32)),
    accept: { keys: ['v2'], tokens: ['v2'] },
  })
  const count = 10_000
  const work = []
  for (let user = 0; user < count / ROWS_OF_A_USER; user += 1) {
    const userId = `user-${user}`
    const key = await envelope.getOrCreateUserKey(userId)
    const handle = await envelope.user(userId)
    for (let i = 0; i < ROWS_OF_A_USER; i += 1) work.push([handle, encryptWithKey(newSecret(), key)])
  }
  const { cpuMs } = await timed(() => {
    for (const [handle, token] of work) {
      const plaintext = handle.decryptBytes(token)
      const again = handle.decryptBytes(handle.encryptBytes(plaintext, CONTEXT), CONTEXT)
      if (Buffer.compare(plaintext, again) !== 0) throw new Error('not the same plaintext')
    }
  })
  await envelope.close()
  return (cpuMs * 1000) / count
}

function newSecret() {
  return `sk-${randomBytes(24).toString('hex')}`
}
