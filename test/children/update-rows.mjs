// Reads rows of the table credentials and updates its own share of them as an application, until its stdin ends. The value of a row is
// "row ID sequence N", N counting its updates, as plaintext, a v2 token or a v3 token: as the argument says, and as v3 tokens after a
// line "v3" on stdin. It fails if one of its own rows has another value than it wrote last. Prints "ready" once it has begun,
// "switched" when it writes v3, and as JSON at the end the last sequence of each row that it wrote.
//
//   node update-rows.mjs URL ROWS PROCESS OF plaintext|v2|v3
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import Database from 'better-sqlite3'
import pg from 'pg'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, encryptWithKey, isEncrypted, masterKeysFromEnv } from '../../dist/index.js'

const [url, rowCount, process_, of, format] = process.argv.slice(2)
const rows = Number(rowCount)
// A long deadline: six processes share few cores, and none may fail because it is slow.
const store = await openKeyStore(url, { deadlineMs: 120_000 })
const accept = { keys: ['v2'], tokens: ['v2'] }
const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKeysFromEnv(), accept })
const table = url.startsWith('postgres') ? onPostgres() : onSqlite()

const written = {}
let writes = format
let stopped = false
createInterface({ input: process.stdin })
  .on('line', () => {
    writes = 'v3'
    console.log('switched')
  })
  .once('close', () => {
    stopped = true
  })

for (let round = 0; !stopped; round += 1) {
  const own = (round * 7919 * Number(of)) % rows
  await update(own - (own % Number(of)) + Number(process_))
  await check((round * 104_729) % rows)
  // A row that it wrote earlier: the sweep may have changed it since.
  const earlier = Object.keys(written)
  await check(Number(earlier[(round * 31) % earlier.length]))
  if (round === 0) console.log('ready')
  await sleep(5)
}
await table.close()
await envelope.close()
console.log(JSON.stringify(written))

async function update(id) {
  const sequence = (written[id] ?? 0) + 1
  const plaintext = `row ${id} sequence ${sequence}`
  await table.write(id, await encrypt(ownerOf(id), id, plaintext))
  written[id] = sequence
}

async function encrypt(userId, id, plaintext) {
  if (writes === 'plaintext') return plaintext
  if (writes === 'v2') return encryptWithKey(plaintext, await envelope.getOrCreateUserKey(userId))
  return envelope.encrypt(userId, plaintext, contextOf(id))
}

async function check(id) {
  const stored = await table.read(id)
  const value = isEncrypted(stored) ? await envelope.decrypt(ownerOf(id), stored, contextOf(id)) : stored
  const [, row, sequence] = /^row (\d+) sequence (\d+)$/.exec(value) ?? []
  if (Number(row) !== id) throw new Error(`row ${id} holds the value of another`)
  if (id in written && Number(sequence) !== written[id])
    throw new Error(`row ${id} went back from sequence ${written[id]} to ${sequence}`)
}

function ownerOf(id) {
  return `user-${id % 50}`
}

function contextOf(id) {
  return { column: 'credentials.api_key', row: String(id) }
}

function onSqlite() {
  const client = new Database(url, { timeout: 120_000 })
  const read = client.prepare('select api_key from credentials where id = ?').pluck()
  const write = client.prepare('update credentials set api_key = ? where id = ?')
  return {
    read: (id) => read.get(id),
    write: (id, value) => write.run(value, id),
    close: () => client.close(),
  }
}

function onPostgres() {
  const pool = new pg.Pool({ connectionString: url, max: 1 })
  return {
    async read(id) {
      const { rows } = await pool.query('select api_key from credentials where id = $1', [id])
      return rows[0].api_key
    },
    write: (id, value) => pool.query('update credentials set api_key = $1 where id = $2', [value, id]),
    close: () => pool.end(),
  }
}
