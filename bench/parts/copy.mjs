// (i) Copies: rows a second between both kinds of store, beside the least that the target could do: plain inserts of as many rows a statement,
// from memory, without reading or comparing. Processor time of this process beside wall time, since the server has its own.
import { randomBytes, randomUUID } from 'node:crypto'
import { openKeyStore } from '../../dist/adapters/open.js'
import { copyKeys } from '../../dist/index.js'
import { DIALECTS, freshDatabase, keep } from '../databases.mjs'
import { summarized, timed } from '../race.mjs'

export const title = 'Copies'
export const about =
  'A copy into an empty store reads every row of the source, writes it, and then reads and compares all rows of both. "Plain inserts" only writes them: 1,000 rows a ' +
  'statement (Postgres, `unnest`) or a transaction (SQLite), without looking whether a user was shredded.'

const BATCH = 1000

export async function measure({ sizes, longRounds, postgresUrl, progress }) {
  const count = Math.max(...sizes)
  const rows = Array.from({ length: count }, (_, at) => row(at)).sort((a, b) =>
    a.userId < b.userId ? -1 : 1,
  )
  const sources = {}
  for (const dialect of DIALECTS) {
    const fresh = await freshDatabase(dialect, postgresUrl)
    const store = await opened(fresh)
    for (let at = 0; at < count; at += 5000) await store.insertIfAbsent(rows.slice(at, at + 5000))
    sources[dialect] = { fresh, store }
  }
  const groups = []
  for (const to of DIALECTS) {
    const rounds = []
    const cpu = {}
    for (let round = 0; round < longRounds; round += 1) {
      progress(`into ${to}: ${count} rows, round ${round + 1} of ${longRounds}`)
      const micros = {
        'plain inserts': await perRow(cpu, 'plain inserts', count, () => plain(to, rows, postgresUrl)),
      }
      for (const from of DIALECTS) {
        const name = `copyKeys from ${from}`
        micros[name] = await perRow(cpu, name, count, () => copy(sources[from].store, to, count, postgresUrl))
      }
      rounds.push(micros)
    }
    const contestants = [
      { name: 'plain inserts' },
      ...DIALECTS.map((from) => ({ name: `copyKeys from ${from}`, against: 'plain inserts' })),
    ]
    const summary = summarized(contestants, rounds)
    for (const line of summary) {
      const used = cpu[line.name].sort((a, b) => a - b)
      line.more = { 'processor time': `${used[used.length >> 1].toFixed(1)} µs` }
    }
    groups.push({ group: `into ${to}, ${count.toLocaleString('en')} rows`, rows: summary })
  }
  for (const { fresh, store } of Object.values(sources)) {
    await store.close()
    await fresh.remove()
  }
  return groups
}

/** @param work times itself: opening and removing the target do not count @returns microseconds a row */
async function perRow(cpu, name, count, work) {
  const { wallMs, cpuMs } = await work()
  cpu[name] ??= []
  cpu[name].push((cpuMs * 1000) / count)
  return (wallMs * 1000) / count
}

async function copy(from, dialect, count, postgresUrl) {
  const fresh = await freshDatabase(dialect, postgresUrl)
  const to = await opened(fresh)
  try {
    let report
    const took = await timed(async () => {
      report = await copyKeys({ from, to })
    })
    if (!report.equal || report.copied !== count)
      throw new Error(`${report.copied} of ${count} rows were copied`)
    return took
  } finally {
    await to.close()
    await fresh.remove()
  }
}

async function plain(dialect, rows, postgresUrl) {
  const fresh = await freshDatabase(dialect, postgresUrl)
  await (await opened(fresh)).close()
  try {
    return await timed(
      dialect === 'sqlite'
        ? async () => plainSqlite(fresh.client, rows)
        : () => plainPostgres(fresh.client, rows),
    )
  } finally {
    await fresh.remove()
  }
}

const COLUMNS = '(user_id, version, encrypted_key, kek_id, created_at)'

function plainSqlite(client, rows) {
  client.pragma('synchronous = FULL')
  client.pragma('wal_autocheckpoint = 4000')
  const insert = client.prepare(`insert into encryption_keys ${COLUMNS} values (?, ?, ?, ?, ?)`)
  const page = client.transaction((some) => {
    for (const { userId, version, encryptedKey, kekId, createdAt } of some)
      insert.run(userId, version, encryptedKey, kekId, `${createdAt.toISOString().slice(0, -1)}000+00:00`)
  })
  for (let at = 0; at < rows.length; at += BATCH) page(rows.slice(at, at + BATCH))
}

async function plainPostgres(client, rows) {
  const text = `insert into encryption_keys ${COLUMNS} select * from unnest($1::text[], $2::int[], $3::bytea[], $4::text[], $5::timestamptz[])`
  for (let at = 0; at < rows.length; at += BATCH) {
    const some = rows.slice(at, at + BATCH)
    const column = (of) => some.map(of)
    const values = [
      column((r) => r.userId),
      column((r) => r.version),
      column((r) => r.encryptedKey),
      column((r) => r.kekId),
      column((r) => r.createdAt),
    ]
    await client.query({ name: 'plain', text, values })
  }
}

async function opened({ url, options }) {
  const store = await openKeyStore(url, options)
  keep(store)
  return store
}

function row(at) {
  const createdAt = new Date(1_700_000_000_000 + at)
  const kek = { kekId: 'local:AAAAAAAAAAAAAAAA', createdAt, wrappedAt: null, shreddedAt: null }
  return { userId: randomUUID(), version: 1, encryptedKey: Buffer.from(randomBytes(105)), ...kek }
}
