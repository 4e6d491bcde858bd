// (e) Rewrap: what it costs beside its crypto alone, how that grows with the number of keys, and how much memory it takes.
//
// "Crypto alone" is the same work without a store: open each wrapped key, wrap it under the new master key, open that again and compare.
// It is timed right before and after each run, because machines drift.
import { randomBytes } from 'node:crypto'
import { openKeyStore } from '../../dist/adapters/open.js'
import { localMasterKey, masterKeyring, rewrapAll } from '../../dist/index.js'
import { DIALECTS, freshDatabase, keep } from '../databases.mjs'
import { growth, measureSizes } from '../long-work.mjs'
import { timed } from '../race.mjs'
import { importSource } from '../source.mjs'

const { newDataKey, unwrapDataKey, wrapDataKey } = await importSource('master-keys/key-wrap.ts')

export const title = 'Rewrap'
export const about =
  '"Its crypto alone" is the same work without a store: unwrap each key, wrap it again, unwrap the result and compare.'

const oldKey = localMasterKey(randomBytes(32))
const newKey = localMasterKey(randomBytes(32))
const before = masterKeyring({ primary: oldKey })
const keyring = masterKeyring({ primary: newKey, previous: [oldKey] })

export function measure(options) {
  return measureSizes('keys', DIALECTS, options, async (dialect, count) => {
    const fresh = await freshDatabase(dialect, options.postgresUrl)
    const store = await openKeyStore(fresh.url, fresh.options)
    keep(store)
    try {
      await fill(store, count)
      const cryptoBefore = await cryptoAlone()
      const memory = growth()
      let report
      const { wallMs, cpuMs } = await timed(async () => {
        report = await rewrapAll({ store, masterKeys: keyring, batchSize: 1000, onProgress: memory.page })
      })
      if (report.changed !== count) throw new Error(`${report.changed} of ${count} keys were rewrapped`)
      return {
        micros: (wallMs * 1000) / count,
        cpuMicros: (cpuMs * 1000) / count,
        cryptoMicros: (cryptoBefore + (await cryptoAlone())) / 2,
        growthBytes: memory.bytes(),
      }
    } finally {
      await store.close()
      await fresh.remove()
    }
  })
}

/** @returns microseconds of processor time a key */
async function cryptoAlone() {
  const count = 5000
  const records = []
  for (let i = 0; i < count; i += 1) records.push(await newRow(`user-${i}`))
  const { cpuMs } = await timed(async () => {
    for (const record of records) {
      const dataKey = await unwrapDataKey(keyring, record, ['v3'])
      const wrapped = await wrapDataKey(keyring, record, dataKey, 'v3')
      const again = await unwrapDataKey(keyring, { ...record, ...wrapped }, ['v3'])
      if (Buffer.compare(dataKey, again) !== 0) throw new Error('not the same key')
    }
  })
  return (cpuMs * 1000) / count
}

async function newRow(userId) {
  return (await newDataKey(before, { userId, version: 1 }, 'v3')).record
}

async function fill(store, count) {
  for (let at = 0; at < count; at += 5000) {
    const records = []
    for (let i = at; i < Math.min(at + 5000, count); i += 1)
      records.push(await newRow(`user-${randomBytes(6).toString('hex')}-${i}`))
    await store.insertIfAbsent(records)
  }
}
