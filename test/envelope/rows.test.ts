/** encryptRows and decryptRows: rows of many users in bulk. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  decryptRows,
  type EnvelopeCrypto,
  encryptRows,
  isToken,
  localMasterKey,
  StoreError,
} from '../../src/index.js'
import { errorOf } from '../support/errors.js'
import { backends, freshStore, type TestStore } from '../support/fresh-store.js'
import { everythingOf } from '../support/leaks.js'
import { type CountedStore, countedStore } from '../support/store-doubles.js'

interface Credential {
  readonly id: number
  readonly userId: string
  readonly apiKey: string
  readonly note: string | null
  readonly label?: string
}

const INVALID = { code: 'ERR_INVALID_ARGUMENT' }
const OPTIONS = {
  owner: 'userId',
  columns: {
    apiKey: ({ id }: Credential) => ({ column: 'credentials.api_key', row: String(id) }),
    note: 'credentials.note',
  },
} as const

describe.each(backends)('rows in bulk, keys on %s', (backend) => {
  let fresh: TestStore
  let counted: CountedStore
  let envelope: EnvelopeCrypto
  beforeEach(async () => {
    fresh = await freshStore(backend)
    counted = countedStore(fresh.store)
    envelope = await fresh.open({ store: counted.store, masterKeys: localMasterKey(randomBytes(32)) })
  })
  afterEach(() => fresh.remove())

  const credentials = (count: number): Credential[] =>
    Array.from({ length: count }, (_, id) => ({
      id,
      userId: `user-${id % 50}`,
      apiKey: `sk-${id}`,
      note: id % 3 === 0 ? null : `note ${id}`,
    }))

  it('come back in order as new objects, with null and undefined as they were', async () => {
    const given = credentials(200)
    const copy = structuredClone(given)
    const encrypted = await encryptRows(envelope, given, OPTIONS)
    expect(encrypted.errors).toEqual([])
    expect(given).toEqual(copy)
    for (const [index, row] of encrypted.rows.entries()) {
      expect(row).toMatchObject({ id: index, userId: `user-${index % 50}` })
      expect(isToken(row.apiKey)).toBe(true)
      expect(row.note === null || isToken(row.note)).toBe(true)
    }
    const stored = encrypted.rows as Credential[]
    expect(await decryptRows(envelope, stored, OPTIONS)).toEqual({ rows: given, errors: [] })
    const [first] = stored
    expect(
      await envelope.decrypt('user-0', String(first?.apiKey), { column: 'credentials.api_key', row: '0' }),
    ).toBe('sk-0')
    const sparse = await encryptRows(envelope, [{ userId: 'alice', a: undefined, b: null }], {
      owner: 'userId',
      columns: { a: 'a', b: 'b' },
    })
    expect(sparse.rows).toStrictEqual([{ userId: 'alice', a: undefined, b: null }])
  })

  it('take one read of keys and one insert for any number of users', async () => {
    const { rows } = await encryptRows(envelope, credentials(500), OPTIONS)
    expect(counted.inserts).toEqual([50])
    const other = await fresh.open({
      store: counted.store,
      masterKeys: localMasterKey(randomBytes(32)),
      allowUnknownMasterKeys: true,
    })
    const { getAll = 0 } = counted.calls
    await decryptRows(other, rows as Credential[], OPTIONS)
    expect(counted.calls.getAll).toBe(getAll + 1)
  })

  it('do not open a value that was moved to another row, if the context names the row', async () => {
    const { rows } = await encryptRows(envelope, credentials(100), OPTIONS)
    const [first, second] = [rows[0], rows[50]] as Credential[]
    const exchanged = [
      { ...first, apiKey: second?.apiKey, note: null },
      { ...second, apiKey: first?.apiKey, note: null },
    ] as Credential[]
    const { rows: opened, errors } = await decryptRows(envelope, exchanged, OPTIONS)
    expect(errors.map(({ row, column, error }) => [row, column, error.code])).toEqual([
      [0, 'apiKey', 'ERR_DECRYPTION_FAILED'],
      [1, 'apiKey', 'ERR_DECRYPTION_FAILED'],
    ])
    expect(opened.every((row) => !('apiKey' in row))).toBe(true)
  })

  it('name the row and column of each value that fails, and all other values succeed', async () => {
    const { rows } = await encryptRows(envelope, credentials(6), OPTIONS)
    const broken = rows as Record<string, unknown>[]
    Object.assign(broken[1] as object, { apiKey: 'sk-planted', note: 7 })
    Object.assign(broken[2] as object, { userId: 'nobody' })
    Object.assign(broken[4] as object, { userId: null })
    const result = await decryptRows(envelope, broken as unknown as Credential[], OPTIONS)
    expect(result.errors.map(({ row, column, error }) => [row, column, error.code])).toEqual([
      [1, 'apiKey', 'ERR_NOT_ENCRYPTED'],
      [1, 'note', 'ERR_INVALID_ARGUMENT'],
      [2, 'apiKey', 'ERR_KEY_NOT_FOUND'],
      [2, 'note', 'ERR_KEY_NOT_FOUND'],
      [4, 'apiKey', 'ERR_INVALID_ARGUMENT'],
      [4, 'note', 'ERR_INVALID_ARGUMENT'],
    ])
    // The property is absent, not undefined: an update by this row leaves the column as it is.
    expect(Object.keys(result.rows[1] ?? {})).toEqual(['id', 'userId'])
    expect(result.rows[3]).toEqual(credentials(6)[3])
    expect(result.rows[5]).toEqual(credentials(6)[5])
    expect(everythingOf(result.errors)).not.toContain('sk-planted')
    const again = await encryptRows(envelope, rows as Credential[], OPTIONS)
    expect(again.errors.filter(({ row }) => row === 0)).toMatchObject([{ column: 'apiKey', error: INVALID }])
  })

  it('take the owner from a function; an error of a function fails its value alone, and is not shown', async () => {
    const { rows, errors } = await encryptRows(envelope, credentials(3), {
      owner: ({ id }) => {
        if (id === 1) throw new Error('sk-planted')
        return `owner-${id}`
      },
      columns: {
        apiKey: ({ id }) => {
          if (id === 2) throw new Error('sk-planted')
          return 'key'
        },
        note: null,
      },
    })
    expect(errors.map(({ row, column, error }) => [row, column, error.code])).toEqual([
      [1, 'apiKey', 'ERR_INVALID_ARGUMENT'],
      [1, 'note', 'ERR_INVALID_ARGUMENT'],
      [2, 'apiKey', 'ERR_INVALID_ARGUMENT'],
    ])
    expect(everythingOf(errors)).not.toContain('sk-planted')
    expect(await envelope.decrypt('owner-0', String(rows[0]?.apiKey), { column: 'key' })).toBe('sk-0')
    expect(await envelope.decrypt('owner-2', String(rows[2]?.note))).toBe('note 2')
  })

  it('belong to the shared pool only where pool: true says so: a null owner is reported, in its place', async () => {
    const rows = ['alice', null, 'bob', null, undefined, ''].map((userId, id) => ({
      id,
      userId,
      apiKey: `sk-${id}`,
    }))
    const columns = { apiKey: 'credentials.api_key' }
    for (const owner of ['userId', ({ userId }: (typeof rows)[number]) => userId as string | null] as const) {
      const without = await encryptRows(envelope, rows, { owner, columns })
      expect(without.errors.map(({ row, error }) => [row, error.code])).toEqual(
        [1, 3, 4, 5].map((row) => [row, INVALID.code]),
      )
      expect(without.errors[0]?.error.message).toContain('pool: true')
      expect(without.rows.map((row) => 'apiKey' in row)).toEqual([true, false, true, false, false, false])
      const { rows: encrypted, errors } = await encryptRows(envelope, rows, { owner, columns, pool: true })
      expect(errors.map(({ row }) => row)).toEqual([4, 5])
      expect(await envelope.pool.decrypt(String(encrypted[3]?.apiKey), { column: columns.apiKey })).toBe(
        'sk-3',
      )
      const stored = encrypted.slice(0, 4) as typeof rows
      expect(await decryptRows(envelope, stored, { owner, columns, pool: true })).toEqual({
        rows: rows.slice(0, 4),
        errors: [],
      })
      const closed = await decryptRows(envelope, stored, { owner, columns })
      expect(closed.errors.map(({ row }) => row)).toEqual([1, 3])
      // A token of a user does not open as the pool's.
      const [ofAlice] = stored
      const moved = await decryptRows(envelope, [{ ...ofAlice, userId: null }], {
        owner: 'userId',
        columns,
        pool: true,
      })
      expect(moved.errors).toMatchObject([{ row: 0, error: { code: 'ERR_DECRYPTION_FAILED' } }])
    }
    const wrong = encryptRows(envelope, rows, { owner: 'userId', columns, pool: 'yes' as never })
    await expect(wrong).rejects.toMatchObject(INVALID)
  })

  it('refuse wrong rows and options at once', async () => {
    const rows = credentials(1)
    const wrong: unknown[][] = [
      ['rows', OPTIONS],
      [[null], OPTIONS],
      [rows, { ...OPTIONS, owner: 7 }],
      [rows, { owner: 'userId' }],
      [rows, { owner: 'userId', columns: { apiKey: undefined } }],
      [rows, { owner: 'userId', columns: { apiKey: { row: 7 } } }],
      [rows, { owner: 'userId', columns: { apiKey: 'lone \ud800' } }],
    ]
    for (const [given, options] of wrong) {
      expect(
        await errorOf(async () => encryptRows(envelope, given as never, options as never)),
      ).toMatchObject(INVALID)
      expect(
        await errorOf(async () => decryptRows(envelope, given as never, options as never)),
      ).toMatchObject(INVALID)
    }
  })

  it('report an outage for every value, and fail when the service is closed', async () => {
    counted.failNext('getAll', new StoreError('down', { retryable: true }))
    const { errors } = await encryptRows(envelope, credentials(2), OPTIONS)
    expect(errors.map(({ error }) => error.code)).toEqual(['ERR_STORE', 'ERR_STORE', 'ERR_STORE'])
    await envelope.close()
    expect(await errorOf(encryptRows(envelope, credentials(1), OPTIONS))).toMatchObject({
      code: 'ERR_CLOSED',
    })
  })
})
