// (h) Tenants: how often a key service is asked with the key hierarchy (root, tenants' keys, users' keys) and without it, and what a look-up
// costs beside one without tenants.
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, localMasterKey, masterKeyring, rewrapAll } from '../../dist/index.js'
import { DIALECTS, freshDatabase, keep } from '../databases.mjs'
import { awaited, race } from '../race.mjs'

export const title = 'Tenants'
export const about =
  'Calls of a key service for 10,000 users of 10 tenants, counted on a stand-in for one. The same keyring without `tenantOf` is "without hierarchy". ' +
  '"Another root" is `rewrapAll` with a new primary: the old root unwraps, the new one wraps, and what it has wrapped first is opened again as a check. ' +
  '"New tenant keys" is `rotateTenantKey` for each tenant, and `rewrapAll`, which brings all users along.'

const USERS = 10_000
const TENANTS = 10
const COLD_USERS = 20_000
/** So few that no user is still in memory when its turn comes again. */
const COLD_CACHE = { maxEntries: 500 }
const CACHED_AT_MOST = 1.05

export async function measure({ rounds, progress, postgresUrl, isQuick }) {
  const groups = []
  for (const dialect of DIALECTS) {
    progress(`${dialect}: calls`)
    const users = isQuick ? USERS / 10 : USERS
    groups.push({
      group: `${dialect}, calls of the key service`,
      rows: [
        ...(await callsOf(dialect, postgresUrl, users, false)),
        ...(await callsOf(dialect, postgresUrl, users, true)),
      ],
    })
  }
  for (const dialect of DIALECTS) {
    progress(`${dialect}: look-ups`)
    groups.push(...(await lookUps(dialect, postgresUrl, rounds)))
  }
  return groups
}

const tenantOf = (userId) => userId.slice(0, userId.indexOf('/'))

function userIds(count) {
  return Array.from({ length: count }, (_, index) => `t${index % TENANTS}/user-${index}`)
}

/** A key service of this process, which counts its calls. */
function countedService(id) {
  const key = randomBytes(32)
  const service = {
    id,
    wraps: 0,
    unwraps: 0,
    async wrap(dataKey, aad) {
      service.wraps += 1
      const nonce = randomBytes(12)
      const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(aad)
      return Buffer.concat([nonce, cipher.update(dataKey), cipher.final(), cipher.getAuthTag()])
    },
    async unwrap(wrapped, aad) {
      service.unwraps += 1
      const cipher = createDecipheriv('aes-256-gcm', key, wrapped.subarray(0, 12)).setAAD(aad)
      cipher.setAuthTag(wrapped.subarray(-16))
      return Buffer.concat([cipher.update(wrapped.subarray(12, -16)), cipher.final()])
    },
  }
  return service
}

/** Rows of what each step has asked of the service. */
async function callsOf(dialect, postgresUrl, users, hasTenants) {
  const fresh = await freshDatabase(dialect, postgresUrl)
  const store = await openKeyStore(fresh.url, fresh.options)
  keep(store)
  const [root, other] = [countedService('service:root'), countedService('service:other')]
  const tenants = hasTenants ? { tenantOf } : {}
  const keyring = masterKeyring({ primary: root, ...tenants })
  const rows = []
  const counted = async (what, work) => {
    for (const service of [root, other]) service.wraps = service.unwraps = 0
    await work()
    const more = { wraps: shown('wraps'), unwraps: shown('unwraps') }
    rows.push({ name: `${what}, ${hasTenants ? 'with' : 'without'} hierarchy`, more })
  }
  const shown = (what) => (root[what] + other[what]).toLocaleString('en')
  const open = (masterKeys) => EnvelopeCrypto.open({ store, masterKeys, closeStore: false })
  const ids = userIds(users)
  const items = ids.map((userId) => ({ userId, plaintext: 'sk-1' }))
  let tokens

  // Opened on an empty store, a service tries its master key out: not counted with the mints.
  const first = await open(keyring)
  await counted('mint', async () => {
    tokens = valuesOf(await first.encryptMany(items))
  })
  await first.close()
  const decryptAll = async (masterKeys) => {
    const envelope = await open(masterKeys)
    valuesOf(await envelope.decryptMany(tokens.map((token, index) => ({ userId: ids[index], token }))))
    await envelope.close()
  }
  await counted('cold start', () => decryptAll(keyring))
  const next = masterKeyring({ primary: other, previous: [root], ...tenants })
  await counted('another root', () => completely(rewrapAll({ store, masterKeys: next })))
  if (hasTenants) {
    const envelope = await open(next)
    await counted('new tenant keys', async () => {
      for (let index = 0; index < TENANTS; index += 1) await envelope.rotateTenantKey(`t${index}`)
      await completely(rewrapAll({ store, masterKeys: next }))
    })
    await envelope.close()
  }
  await decryptAll(masterKeyring({ primary: other, ...tenants }))
  await store.close()
  await fresh.remove()
  return rows
}

async function completely(rewrap) {
  const { complete, failedCount } = await rewrap
  if (!complete || failedCount > 0) throw new Error(`rewrapAll: complete ${complete}, failed ${failedCount}`)
}

function valuesOf(results) {
  return results.map((result) => {
    if (!result.ok) throw result.error
    return result.value
  })
}

/** Cached and cold users under a tenant's key, against users under the master key itself. */
async function lookUps(dialect, postgresUrl, rounds) {
  const fresh = await freshDatabase(dialect, postgresUrl)
  const store = await openKeyStore(fresh.url, fresh.options)
  keep(store)
  const primary = localMasterKey(randomBytes(32))
  const keyring = masterKeyring({
    primary,
    tenantOf: (userId) => (userId.startsWith('t') ? tenantOf(userId) : null),
  })
  const open = (cache) => EnvelopeCrypto.open({ store, masterKeys: keyring, closeStore: false, cache })
  const warm = await open({})
  const cold = await open(COLD_CACHE)
  const groups = []
  const ids = userIds(COLD_USERS)
  const kinds = [
    ['under the master key', ids.map((id) => `u/${id}`)],
    ["under its tenant's key", ids],
  ]
  for (const [, users] of kinds)
    valuesOf(await warm.encryptMany(users.map((userId) => ({ userId, plaintext: 'sk-1' }))))

  const contestant = (name, work, more) =>
    awaited(name, work, name === kinds[0][0] ? {} : { against: kinds[0][0], ...more })
  const cached = []
  for (const [name, [userId]] of kinds) {
    const token = await warm.encrypt(userId, 'sk-1')
    cached.push(contestant(name, () => warm.decrypt(userId, token), { atMost: CACHED_AT_MOST }))
  }
  groups.push({ group: `${dialect}, decrypt of a cached user`, rows: await race(cached, { rounds }) })

  const looked = kinds.map(([name, users]) => {
    let next = 0
    return contestant(name, () => cold.user(users[next++ % users.length], { mint: false }))
  })
  groups.push({
    group: `${dialect}, user() of a user whose key is not in memory`,
    rows: await race(looked, { rounds, sliceMs: 50, ofWall: true }),
  })
  await warm.close()
  await cold.close()
  await store.close()
  await fresh.remove()
  return groups
}
