// (k) Several processes at the same rewrap or sweep: how long until all is done, beside one process alone.
//
// Processes, not threads, as an operator starts them, each with all of the library in memory before it is told to begin. On a machine of few
// processors a server of Postgres is at work beside them, so one process alone may leave little of the machine for a second one: the
// processor time of the server tells.
import { fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, encryptWithKey, generateMasterKey, masterKeysFromEnv } from '../../dist/index.js'
import { DIALECTS, freshDatabase } from '../databases.mjs'
import { millis, summarized } from '../race.mjs'

export const title = 'Together'
export const about =
  'Processes that do one rewrap, or one sweep, at once, until the last of them has ended. "Done twice" is what two of them had under way at the same time.'

const [OLD, NEW] = [generateMasterKey(), generateMasterKey()]
const OLD_KEYS = { API_KEY_MASTER_KEY: OLD }
const NEW_KEYS = { API_KEY_MASTER_KEY: NEW, API_KEY_MASTER_KEY_PREVIOUS: OLD }
const COLUMNS = { table: 'credentials', key: 'id', owner: 'user_id', column: 'api_key' }
const CONTEXT = { column: 'credentials.api_key' }
const ROWS_OF_A_USER = 10
/** On two processors: what was wanted of a rewrap, and that a second sweep is no loss. */
const AT_MOST = { rewrap: 0.8, sweep: 1 }

const WORK = { rewrap: { unit: 'keys', fill: fillKeys }, sweep: { unit: 'rows', fill: fillTokens } }

export async function measure({ sizes, longRounds, postgresUrl, progress }) {
  const keys = Math.min(60_000, Math.max(...sizes))
  // A sweep of 60,000 rows takes two seconds, in which each process first compiles its code.
  const counts = { rewrap: keys, sweep: 4 * keys }
  const groups = []
  for (const dialect of DIALECTS) {
    for (const [work, { unit }] of Object.entries(WORK)) {
      const count = counts[work]
      const rounds = []
      const more = {}
      for (let round = 0; round < longRounds; round += 1) {
        const micros = {}
        for (const processes of [1, 2]) {
          progress(`${dialect}: ${work} by ${processes}, round ${round + 1} of ${longRounds}`)
          const name = nameOf(processes)
          const took = await together(work, dialect, count, processes, postgresUrl)
          micros[name] = (took.wallMs * 1000) / count
          more[name] = {
            'done twice': `${((took.skipped * 100) / count).toFixed(1)} %`,
            'processor time': `${((took.cpuMs * 1000) / count).toFixed(1)} µs`,
            'of the server': `${((took.serverMs * 1000) / count).toFixed(1)} µs`,
          }
        }
        rounds.push(micros)
      }
      const contestants = [
        { name: nameOf(1) },
        { name: nameOf(2), against: nameOf(1), atMost: AT_MOST[work] },
      ]
      const rows = summarized(contestants, rounds).map((row) => ({ ...row, more: more[row.name] }))
      groups.push({ group: `${dialect}, ${work} of ${count.toLocaleString('en')} ${unit}`, rows })
    }
  }
  return groups
}

function nameOf(processes) {
  return processes === 1 ? 'one process' : `${processes} processes`
}

async function together(work, dialect, count, processes, postgresUrl) {
  const fresh = await freshDatabase(dialect, postgresUrl)
  const children = []
  try {
    await WORK[work].fill(dialect, fresh, count)
    const keys = work === 'rewrap' ? NEW_KEYS : OLD_KEYS
    for (let i = 0; i < processes; i += 1)
      children.push(fork(new URL('../together-child.mjs', import.meta.url)))
    for (const child of children) {
      child.send({ work, url: fresh.url, options: fresh.options, keys, columns: COLUMNS, context: CONTEXT })
      await once(child, 'message')
    }
    const serverBefore = dialect === 'postgres' ? await serverMillis(fresh.client) : 0
    let reports
    const wallMs = await millis(async () => {
      reports = await Promise.all(
        children.map(async (child) => {
          child.send('begin')
          return (await once(child, 'message'))[0]
        }),
      )
    })
    const serverMs = dialect === 'postgres' ? (await serverMillis(fresh.client)) - serverBefore : 0
    const sum = (name) => reports.reduce((all, report) => all + report[name], 0)
    if (sum('changed') !== count) throw new Error(`${sum('changed')} of ${count} were done`)
    return { wallMs, serverMs, skipped: sum('skipped'), cpuMs: sum('cpuMs') }
  } finally {
    for (const child of children) {
      if (child.connected) child.send('end')
      await once(child, 'exit')
    }
    await fresh.remove()
  }
}

/** Of a rewrap: keys under the old master key. */
async function fillKeys(_dialect, { url, options }, count) {
  await withEnvelope(url, options, async (envelope) => {
    for (let at = 0; at < count; at += 5000) {
      const users = Array.from({ length: Math.min(5000, count - at) }, () => randomBytes(8).toString('hex'))
      await envelope.encryptMany(users.map((userId) => ({ userId, plaintext: '' })))
    }
  })
}

/** Of a sweep: v2 tokens, ten to a user. */
async function fillTokens(dialect, { url, options, client }, count) {
  const table = 'create table credentials (id integer primary key, user_id text, api_key text)'
  if (dialect === 'sqlite') client.exec(table)
  else await client.query(table)
  await withEnvelope(url, options, async (envelope) => {
    for (let id = 0; id < count; ) {
      const rows = []
      for (let i = 0; i < 100; i += 1) {
        const userId = randomBytes(8).toString('hex')
        const key = await envelope.getOrCreateUserKey(userId)
        for (let j = 0; j < ROWS_OF_A_USER; j += 1)
          rows.push([id++, userId, encryptWithKey(`sk-${userId}`, key)])
      }
      await insertTokens(dialect, client, rows)
    }
  })
}

async function insertTokens(dialect, client, rows) {
  if (dialect === 'sqlite') {
    const insert = client.prepare('insert into credentials values (?, ?, ?)')
    client.transaction(() => {
      for (const row of rows) insert.run(...row)
    })()
    return
  }
  const columns = [0, 1, 2].map((at) => rows.map((row) => row[at]))
  await client.query(
    'insert into credentials select * from unnest($1::int[], $2::text[], $3::text[])',
    columns,
  )
}

async function withEnvelope(url, options, work) {
  const store = await openKeyStore(url, options)
  const envelope = await EnvelopeCrypto.open({
    store,
    masterKeys: masterKeysFromEnv(OLD_KEYS),
    accept: { keys: ['v2'], tokens: ['v2'] },
  })
  await work(envelope)
  await envelope.close()
}

/** Processor time of the server's processes that are connected or at work now, on Linux; elsewhere 0. In steps of 10 ms. */
async function serverMillis(client) {
  const { rows } = await client.query('select pid from pg_stat_activity')
  const ticks = rows.map(({ pid }) => {
    try {
      const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ')
      return Number(fields[11]) + Number(fields[12])
    } catch {
      return 0
    }
  })
  return ticks.reduce((all, one) => all + one, 0) * 10
}
