// Encrypts and decrypts for users of many tenants until its stdin ends, and mints new ones. Prints "ready" once every tenant has a user.
// For each line on stdin it prints a line of JSON of what it has done since the one before: `calls` of all tenants, how long the slowest call
// of a tenant without failures took (`slowestMs`), and for each tenant with failures their number by code and reason. At the end it prints
// the tokens that it has handed out.
//
//   node tenant-traffic.mjs URL ROOTS_URL TENANTS PROCESS TTL_MS
import { createHash, randomBytes } from 'node:crypto'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto } from '../../dist/index.js'
import { tenantKeyring } from './tenant-roots.mjs'

const [url, rootsUrl, tenantCount, process_, ttlMs] = process.argv.slice(2)
const CONTEXT = { column: 'api_key' }
const tenants = Array.from({ length: Number(tenantCount) }, (_, index) => `t${index}`)
const store = await openKeyStore(url, { deadlineMs: 120_000 })
const envelope = await EnvelopeCrypto.open({
  store,
  masterKeys: tenantKeyring(process.env.API_KEY_MASTER_KEY, rootsUrl),
  cache: { ttlMs: Number(ttlMs) },
})

let calls = 0
let failed = {}
/** The slowest call by tenant. */
let slowest = new Map()
/** By tenant. */
const handedOut = new Map(tenants.map((tenant) => [tenant, []]))
let stopped = false
createInterface({ input: process.stdin })
  .on('line', () => {
    const own = [...slowest].filter(([tenant]) => failed[tenant] === undefined).map(([, ms]) => ms)
    console.log(JSON.stringify({ calls, failed, slowestMs: Math.round(Math.max(0, ...own)) }))
    calls = 0
    failed = {}
    slowest = new Map()
  })
  .on('close', () => {
    stopped = true
  })

// Each tenant is at work by itself, as requests are: one that waits for its root must not keep the others waiting.
for (const tenant of tenants) await encrypt(tenant, 'shared')
console.log('ready')
await Promise.all(tenants.map(work))
await envelope.close()
for (const token of [...handedOut.values()].flat()) console.log(JSON.stringify(token))

async function work(tenant, index) {
  await sleep((index * 1000) / tenants.length)
  for (let round = 0; !stopped; round += 1) {
    // A new user of this process alone, one whom all processes mint at about the same time, and what was encrypted before.
    if (round % 4 === 0) await attempt(tenant, () => encrypt(tenant, `p${process_}-${round}`))
    if (round % 4 === 2) await attempt(tenant, () => encrypt(tenant, `all-${round}`))
    await attempt(tenant, () => decryptEarlier(tenant, round))
    await attempt(tenant, () => encrypt(tenant, 'shared'))
    await sleep(500)
  }
}

async function attempt(tenant, call) {
  const started = performance.now()
  try {
    await call()
  } catch (error) {
    const kind = `${error.code} ${error.reason} ${error.retryable}`
    failed[tenant] ??= {}
    failed[tenant][kind] = (failed[tenant][kind] ?? 0) + 1
  }
  calls += 1
  slowest.set(tenant, Math.max(slowest.get(tenant) ?? 0, performance.now() - started))
}

async function encrypt(tenant, name) {
  const userId = `${tenant}/${name}`
  const plaintext = randomBytes(12).toString('hex')
  const token = await envelope.encrypt(userId, plaintext, CONTEXT)
  handedOut.get(tenant).push({ userId, token, sha256: hash(plaintext) })
}

async function decryptEarlier(tenant, round) {
  const tokens = handedOut.get(tenant)
  const { userId, token, sha256 } = tokens[(round * 31) % tokens.length]
  const plaintext = await envelope.decrypt(userId, token, CONTEXT)
  if (hash(plaintext) !== sha256) throw new Error(`another plaintext for ${userId}`)
}

function hash(plaintext) {
  return createHash('sha256').update(plaintext).digest('hex')
}
