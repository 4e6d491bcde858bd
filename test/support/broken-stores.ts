/** Stores that break the contract of KeyStore, each in one way seen in practice: the conformance suite must fail each of them. */
import type { KeyStore, StoreChange, StoreMaintenance } from '../../src/store.js'
import { compareRefs, isTenantKekId, isTenantRow, type KeyRecord, type KeyRef } from '../../src/table.js'
import { storeMaintenance } from './maintenance.js'

/** The methods that a broken store has in place of those of `intact`. */
export type Break = (intact: KeyStore) => Partial<KeyStore>

const NO_KEY = new Uint8Array(0)
const isLive = ({ shreddedAt }: KeyRecord) => shreddedAt === null
const changeRows = (rows: Map<string, KeyRecord[]>, change: (row: KeyRecord) => KeyRecord) =>
  new Map([...rows].map(([userId, versions]) => [userId, versions.map(change)]))
const refsOf = (rows: readonly KeyRecord[]): KeyRef[] =>
  rows.map(({ userId, version }) => ({ userId, version }))
const everyRow = (store: KeyStore) => store.list({ limit: 100_000 })
const turn = () => new Promise<void>((resolve) => setImmediate(resolve))

function maintained(intact: KeyStore, broken: Partial<StoreMaintenance>): Partial<KeyStore> {
  return { maintenance: { ...storeMaintenance(intact), ...broken } }
}

/** Does not report the changes that one method makes. */
function muted(intact: KeyStore, method: 'insertIfAbsent' | 'shred' | 'remove'): Partial<KeyStore> {
  let isMuted = false
  return {
    changes: (listener) =>
      intact.changes?.((change) => {
        if (!isMuted) listener(change)
      }) ?? (() => undefined),
    async [method](...args: [never, never]) {
      isMuted = true
      try {
        return await intact[method](...args)
      } finally {
        isMuted = false
      }
    },
  }
}

export const breaks: Record<string, Break> = {
  'a change that is made again has lost': (intact) => ({
    async replaceWrapped(changes) {
      const rows = await everyRow(intact)
      const isMade = (change: KeyRef & { readonly encryptedKey: Uint8Array }) =>
        rows.some(
          (row) =>
            compareRefs(row, change) === 0 && Buffer.compare(row.encryptedKey, change.encryptedKey) === 0,
        )
      return intact.replaceWrapped(changes.filter((change) => !isMade(change)))
    },
  }),
  'the last writer wins': (intact) => ({
    async insertIfAbsent(records) {
      const live = (await everyRow(intact)).filter(isLive).map(({ userId }) => userId)
      await intact.remove(refsOf(records).filter(({ userId }) => live.includes(userId)))
      return intact.insertIfAbsent(records)
    },
  }),
  'each writer is given its own row': (intact) => ({
    insertIfAbsent: async (records) => {
      await intact.insertIfAbsent(records)
      return [...records]
    },
  }),
  'winners come in the order of refs, not of the input': (intact) => ({
    insertIfAbsent: async (records) => (await intact.insertIfAbsent(records)).sort(compareRefs),
  }),
  'version n is inserted without n − 1': (intact) => ({
    async insertIfAbsent(records) {
      const gaps = records.filter(({ version }) => version > 1)
      for (const { userId, version } of gaps) {
        const below = Array.from({ length: version - 1 }, (_, i) => ({
          ...records[0],
          userId,
          version: i + 1,
        }))
        const present = (await intact.getAll([userId])).get(userId) ?? []
        const fill = below.filter((row) => !present.some((stored) => stored.version === row.version))
        await intact.insertIfAbsent(fill as KeyRecord[])
        await intact.insertIfAbsent(records.filter((row) => row.userId === userId && row.version === version))
        await intact.remove(refsOf(fill as KeyRecord[]))
      }
      return intact.insertIfAbsent(records)
    },
  }),
  'a mint succeeds on a tombstone': (intact) => ({
    async insertIfAbsent(records) {
      const dead = (await everyRow(intact)).filter((row) => !isLive(row))
      await intact.remove(refsOf(dead.filter(({ userId }) => records.some((row) => row.userId === userId))))
      return intact.insertIfAbsent(records)
    },
  }),
  'an insert looks for a tombstone first and writes later': (intact) => ({
    async insertIfAbsent(records) {
      const before = await intact.getActive(records.map(({ userId }) => userId))
      await turn()
      if (![...before.values()].every(isLive)) return intact.insertIfAbsent(records)
      const after = await intact.getActive([...new Set(records.map(({ userId }) => userId))])
      await intact.remove(refsOf([...after.values()].filter((row) => !isLive(row))))
      return intact.insertIfAbsent(records)
    },
  }),
  'reads return the same bytes object': (intact) => {
    const shared = new Map<string, KeyRecord>()
    return {
      async list(page) {
        return (await intact.list(page)).map((row) => {
          const key = JSON.stringify([row.userId, row.version, [...row.encryptedKey], row.shreddedAt])
          shared.set(key, shared.get(key) ?? row)
          return shared.get(key) ?? row
        })
      },
    }
  },
  'rows hold the bytes object of the caller': (intact) => {
    const kept = new Map<string, Uint8Array>()
    return {
      async insertIfAbsent(records) {
        for (const row of records) kept.set(row.userId, row.encryptedKey)
        return intact.insertIfAbsent(records)
      },
      list: async (page) =>
        (await intact.list(page)).map((row) => ({
          ...row,
          encryptedKey: kept.get(row.userId) ?? row.encryptedKey,
        })),
    }
  },
  'dates are cut to the second': (intact) => ({
    getAll: async (userIds) =>
      changeRows(await intact.getAll(userIds), (row) => {
        const createdAt = new Date(row.createdAt)
        createdAt.setMilliseconds(0)
        return { ...row, createdAt }
      }),
  }),
  'ids are normalised': (intact) => ({
    insertIfAbsent: (records) =>
      intact.insertIfAbsent(records.map((row) => ({ ...row, userId: row.userId.normalize('NFC') }))),
  }),
  'ids are trimmed': (intact) => ({
    getAll: (userIds) => intact.getAll(userIds.map((userId) => userId.trim())),
  }),
  'look-ups ignore all ids after the thousandth': (intact) => ({
    getActive: (userIds) => intact.getActive(userIds.slice(0, 1000)),
  }),
  'an absent user has an empty list': (intact) => ({
    getAll: async (userIds) =>
      new Map([
        ...userIds.map((userId): [string, KeyRecord[]] => [userId, []]),
        ...(await intact.getAll(userIds)),
      ]),
  }),
  'versions come in no order': (intact) => ({
    getAll: async (userIds) =>
      new Map([...(await intact.getAll(userIds))].map(([userId, rows]) => [userId, rows.reverse()])),
  }),
  'the highest version is active though another is a tombstone': (intact) => ({
    async getActive(userIds) {
      const rows = await intact.getAll(userIds)
      return new Map(
        [...rows].flatMap(([userId, versions]) => versions.slice(-1).map((row) => [userId, row])),
      )
    },
  }),
  'replaceWrapped does not compare the old bytes': (intact) => ({
    async replaceWrapped(changes) {
      const rows = await everyRow(intact)
      const fresh = changes.map((change) => {
        const row = rows.find((one) => compareRefs(one, change) === 0)
        return { ...change, from: row?.encryptedKey ?? change.from }
      })
      return intact.replaceWrapped(fresh)
    },
  }),
  'replaceWrapped reports every change as made': (intact) => ({
    async replaceWrapped(changes) {
      await intact.replaceWrapped(changes)
      return changes.map(({ userId, version }) => ({ userId, version }))
    },
  }),
  'replaceWrapped reports new keys for tombstones': (intact) => ({
    async replaceWrapped(changes) {
      const dead = (await everyRow(intact)).filter((row) => !isLive(row))
      const revived = changes.filter(
        ({ from, ...ref }) => from.length === 0 && dead.some((row) => compareRefs(row, ref) === 0),
      )
      return [...(await intact.replaceWrapped(changes)), ...revived]
    },
  }),
  'pages are in JavaScript’s order of strings': (intact) => ({
    async list({ after, limit, ...filter }) {
      const order = (a: KeyRef, b: KeyRef) =>
        a.userId < b.userId ? -1 : a.userId > b.userId ? 1 : a.version - b.version
      const rows = (await intact.list({ limit: 100_000, ...filter })).sort(order)
      return rows.filter((row) => after === undefined || order(row, after) > 0).slice(0, limit)
    },
  }),
  'notKekId leaves out rows without a KEK id': (intact) => ({
    async list(page) {
      const rows = await intact.list(page)
      return page.notKekId === undefined ? rows : rows.filter(({ kekId }) => kekId !== null)
    },
  }),
  'a shred leaves nothing for a user without rows': (intact) => ({
    async shred(userId, options) {
      const known = (await intact.getAll([userId])).has(userId)
      return intact.shred(userId, known ? options : { forget: true })
    },
  }),
  'a shred keeps the wrapped bytes': (intact) => {
    const kept = new Map<string, Uint8Array>()
    return {
      async shred(userId, options) {
        const [row] = (await intact.getAll([userId])).get(userId) ?? []
        if (row) kept.set(userId, row.encryptedKey)
        return intact.shred(userId, options)
      },
      getAll: async (userIds) =>
        changeRows(await intact.getAll(userIds), (row) =>
          isLive(row) ? row : { ...row, encryptedKey: kept.get(row.userId) ?? NO_KEY },
        ),
    }
  },
  'a shred names every version again': (intact) => ({
    async shred(userId, options) {
      const rows = (await intact.getAll([userId])).get(userId) ?? []
      return { ...(await intact.shred(userId, options)), versions: rows.map(({ version }) => version) }
    },
  }),
  'forget leaves tombstones': (intact) => ({ shred: (userId) => intact.shred(userId, { forget: false }) }),
  'a shred ignores the time asked for': (intact) => ({
    shred: (userId, { forget }) => intact.shred(userId, { forget }),
  }),
  'a receipt has the time asked for, but its rows have another': (intact) => ({
    shred: async (userId, options) => ({
      ...(await intact.shred(userId, { forget: options.forget })),
      at: new Date(options.at ?? Date.now()),
    }),
  }),
  'a shred is pending for no reason': (intact) => ({
    shred: async (userId, options) => ({
      ...(await intact.shred(userId, options)),
      erased: 'pending',
      pending: null,
    }),
  }),
  'a rotation is reported to nobody': (intact) => muted(intact, 'insertIfAbsent'),
  'a shred is reported to nobody': (intact) => muted(intact, 'shred'),
  'a prune is reported to nobody': (intact) => muted(intact, 'remove'),
  'mints are reported': (intact) => {
    const listeners = new Set<(change: StoreChange) => void>()
    return {
      changes(listener) {
        listeners.add(listener)
        return intact.changes?.(listener) ?? (() => undefined)
      },
      async insertIfAbsent(records) {
        const winners = await intact.insertIfAbsent(records)
        for (const listener of listeners) listener({ userIds: winners.map(({ userId }) => userId) })
        return winners
      },
    }
  },
  'a listener is still called after it has ended': (intact) => ({
    changes(listener) {
      intact.changes?.(listener)
      return () => undefined
    },
  }),
  'restore overwrites': (intact) =>
    maintained(intact, {
      async restore(records) {
        await intact.remove(refsOf(records))
        return storeMaintenance(intact).restore(records)
      },
    }),
  'restore inserts version n only above n − 1': (intact) =>
    maintained(intact, {
      restore: (records) => intact.insertIfAbsent(records),
    }),
  'restore brings a shredded user back': (intact) =>
    maintained(intact, {
      async restore(records) {
        const ids = records.map(({ userId }) => userId)
        const dead = [...(await intact.getAll(ids)).values()].flat().filter((row) => !isLive(row))
        await intact.remove(refsOf(dead))
        await storeMaintenance(intact).restore(records.filter(isLive))
        await storeMaintenance(intact).restore([...records, ...dead])
        return [...records]
      },
    }),
  'restore leaves out a second tombstone': (intact) =>
    maintained(intact, {
      async restore(records) {
        const shredded = new Set<string>()
        const first = [...records].sort(compareRefs).filter((row) => {
          if (isLive(row)) return true
          const isFirst = !shredded.has(row.userId)
          shredded.add(row.userId)
          return isFirst
        })
        await storeMaintenance(intact).restore(first)
        return [...records]
      },
    }),
  'restore returns its argument, not the stored rows': (intact) =>
    maintained(intact, {
      async restore(records) {
        await storeMaintenance(intact).restore(records)
        return [...records]
      },
    }),
  'an erasure stays pending without a reason': (intact) =>
    maintained(intact, { finishErasure: async () => ({ erased: 'pending', pending: null }) }),
  'finishing an erasure removes tombstones': (intact) =>
    maintained(intact, {
      async finishErasure() {
        await intact.remove(refsOf((await everyRow(intact)).filter((row) => !isLive(row))))
        return storeMaintenance(intact).finishErasure()
      },
    }),
  'inspect finds an error in an intact store': (intact) =>
    maintained(intact, {
      inspect: async () => [{ severity: 'error', kind: 'setting', reason: 'It is a store in memory' }],
    }),
  'the dated census gives every group the ages of all rows': (intact) =>
    maintained(intact, {
      async datedCensus() {
        const rows = await storeMaintenance(intact).datedCensus()
        const times = rows.flatMap(({ oldest, newest }) => [oldest.getTime(), newest.getTime()])
        return rows.map((row) => ({
          ...row,
          oldest: new Date(Math.min(...times)),
          newest: new Date(Math.max(...times)),
        }))
      },
    }),
  'a closed store accepts listeners': (intact) => ({ changes: () => () => void intact }),
  'remove counts what it was asked to remove': (intact) => ({
    async remove(refs) {
      await intact.remove(refs)
      return refs.length
    },
  }),
  'samples leave out rows without a KEK id': (intact) => ({
    sampleByKek: async (limit) => (await intact.sampleByKek(limit)).filter(({ kekId }) => kekId !== null),
  }),
  'samples contain rows under tenants’ keys': (intact) => ({
    sampleByKek: async (limit) => [
      ...(await intact.sampleByKek(limit)),
      ...(await everyRow(intact)).filter((row) => isLive(row) && isTenantKekId(row.kekId)).slice(0, limit),
    ],
  }),
  'samples contain tenants’ own rows': (intact) => ({
    sampleByKek: async (limit) => [
      ...(await intact.sampleByKek(limit)),
      ...(await everyRow(intact)).filter((row) => isLive(row) && isTenantRow(row)).slice(0, limit),
    ],
  }),
  'samples leave out KEK ids that a dictionary has beside those of tenants’ keys': (intact) => ({
    sampleByKek: async (limit) =>
      (await intact.sampleByKek(limit)).filter(({ kekId }) => !/^tenant\b/i.test(kekId ?? '')),
  }),
  'pages of a KEK id contain tenants’ own rows': (intact) => ({
    async list({ kekId, ...page }) {
      if (kekId === undefined) return intact.list(page)
      const rows = await intact.list({ ...page, limit: 100_000 })
      return rows.filter((row) => isLive(row) && row.kekId === kekId).slice(0, page.limit)
    },
  }),
  'pages of a KEK id contain tombstones': (intact) => ({
    async list({ kekId, ...page }) {
      if (kekId === undefined) return intact.list(page)
      const rows = await intact.list({ ...page, limit: 100_000 })
      return rows.filter((row) => !isTenantRow(row) && row.kekId === kekId).slice(0, page.limit)
    },
  }),
  'the census names every tenant': (intact) => ({
    census: async () => {
      const rootIds = (await everyRow(intact)).flatMap(({ kekId }) => kekId ?? [])
      return intact.census({ rootIds })
    },
  }),
  'the census names no tenant’s root': (intact) => ({ census: () => intact.census() }),
  'the census counts tenants’ own rows as users’': (intact) => ({
    census: async (options) => (await intact.census(options)).map(({ ofTenants, ...row }) => row),
  }),
  'the rows under a KEK id are counted with tenants’ own': (intact) =>
    maintained(intact, {
      async countUnder(kekIds) {
        const rows = (await everyRow(intact)).filter(isLive)
        const counts = kekIds.map((id) => [id, rows.filter(({ kekId }) => kekId === id).length] as const)
        return new Map(counts.filter(([, count]) => count > 0))
      },
    }),
  'rewraps of tenants’ own rows are not announced': (intact) => ({
    changes: (listener) =>
      intact.changes?.((change) => {
        const userIds = change.userIds?.filter((userId) => !isTenantRow({ userId }))
        if (userIds === undefined || userIds.length > 0) listener({ ...change, ...(userIds && { userIds }) })
      }) ?? (() => undefined),
  }),
  'a change is made though the row that must be live is not': (intact) => ({
    replaceWrapped: (changes) => intact.replaceWrapped(changes.map(({ whileLive, ...change }) => change)),
  }),
  'a change is never made while another row must be live': (intact) => ({
    replaceWrapped: (changes) =>
      intact.replaceWrapped(changes.filter(({ whileLive }) => whileLive === undefined)),
  }),
  'samples ignore the limit': (intact) => ({ sampleByKek: () => intact.sampleByKek(1000) }),
  'samples contain tombstones': (intact) => ({
    sampleByKek: async (limit) => [
      ...(await intact.sampleByKek(limit)),
      ...(await everyRow(intact)).filter((row) => !isLive(row)),
    ],
  }),
  'the census counts tombstones as live': (intact) => ({
    census: async () => (await intact.census()).map((row) => ({ ...row, shredded: false })),
  }),
  'close does nothing': () => ({ close: async () => undefined }),
}
