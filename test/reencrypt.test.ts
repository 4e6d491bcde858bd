/** The sweep over a source in memory: what becomes of values in every state, and what stays as it is. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import {
  EnvelopeCrypto,
  isToken,
  type KeyStore,
  type KeystoreEvent,
  type LegacyReader,
  localMasterKey,
  type Progress,
  type ReencryptOptions,
  reencrypt,
  StoreError,
  type ValueSource,
} from '../src/index.js'
import { UserHandle } from '../src/user-handle.js'
import { countedStore } from './support/counting.js'
import { everythingOf } from './support/leaks.js'
import { backends, errorOf, freshStore, type TestStore } from './support/services.js'
import { ACCEPT_V2, memorySource, v2PoolToken, v2Token } from './support/value-sources.js'

const CONTEXT = 'credentials.api_key'
const INVALID = { code: 'ERR_INVALID_ARGUMENT' }
const NONE = {
  current: 0,
  oldVersion: 0,
  oldContext: 0,
  v2: 0,
  plaintext: 0,
  unopenable: 0,
  shredded: 0,
  empty: 0,
}

/** Of another library: base64 under a prefix. */
const base64Reader: LegacyReader = {
  name: 'base64',
  test: (value) => value.startsWith('b64:'),
  decrypt: (value) => Buffer.from(value.slice(4), 'base64').toString(),
}

describe.each(backends)('reencrypt, keys on %s', (backend) => {
  const masterBytes = randomBytes(32)
  let fresh: TestStore
  let envelope: EnvelopeCrypto
  const events: KeystoreEvent[] = []
  const open = (store: KeyStore = fresh.store) =>
    EnvelopeCrypto.open({
      store,
      masterKeys: localMasterKey(masterBytes),
      accept: ACCEPT_V2,
      closeStore: false,
      onEvent: (event) => events.push(event),
    })

  beforeEach(async () => {
    fresh = await freshStore(backend)
    envelope = await open()
    events.length = 0
  })
  afterEach(async () => {
    await envelope.close()
    await fresh.remove()
  })

  const sweep = <Row>(source: ValueSource<Row>, options: Partial<ReencryptOptions<NoInfer<Row>>> = {}) =>
    reencrypt<Row>({ envelope, source, context: CONTEXT, ...options })
  const decrypt = (userId: string, token: unknown) =>
    envelope.decrypt(userId, String(token), { column: CONTEXT })

  /** A value of Alice in each state, its key the state's name, its plaintext `of STATE`. */
  async function everyState() {
    const old = await envelope.encrypt('alice', 'of oldVersion', { column: CONTEXT })
    const v2 = await v2Token(envelope, 'alice', 'of v2')
    await envelope.rotateUserKey('alice')
    const values = {
      current: await envelope.encrypt('alice', 'of current', { column: CONTEXT }),
      oldVersion: old,
      oldContext: await envelope.encrypt('alice', 'of oldContext', { column: 'keys.value' }),
      withoutContext: await envelope.encrypt('alice', 'of withoutContext'),
      v2,
      plaintext: 'of plaintext',
      base64: `b64:${Buffer.from('of base64').toString('base64')}`,
      empty: null,
    }
    return Object.entries(values).map(([key, value]) => ({ key, owner: 'alice', value }))
  }
  const ALL_STATES = {
    plaintext: true,
    previousContexts: ['keys.value', null],
    legacy: [base64Reader],
  }
  const COUNTS = { ...NONE, current: 1, oldVersion: 1, oldContext: 2, v2: 1, plaintext: 1, empty: 1 }

  it('brings a value of every state to v3, the newest version and the wanted context, and touches no other', async () => {
    const source = memorySource(await everyState())
    const before = new Map(source.values)
    const report = await sweep(source, ALL_STATES)
    expect(report).toEqual({
      complete: true,
      dryRun: false,
      before: { ...COUNTS, 'legacy:base64': 1 },
      after: { ...NONE, current: 7, empty: 1, 'legacy:base64': 0 },
      changed: 6,
      skipped: 0,
      failed: [],
      failedCount: 0,
      left: 0,
    })
    for (const [key, value] of source.values) {
      if (key === 'empty') continue
      expect(await decrypt('alice', value)).toBe(`of ${key}`)
      expect(Buffer.from(String(value).slice(3), 'base64url').readUInt32BE()).toBe(2)
    }
    for (const key of ['current', 'empty']) expect(source.values.get(key)).toBe(before.get(key))
    expect(events.filter(({ type }) => type === 'decryptFailed')).toEqual([])

    const asked = source.asked.length
    expect(await sweep(source, ALL_STATES)).toMatchObject({
      complete: true,
      changed: 0,
      before: { current: 7, empty: 1 },
    })
    expect(source.asked).toHaveLength(asked)
    // Once after what was changed, and once for the second sweep.
    expect(source.looks).toHaveLength(3)
  })

  it('says with dryRun what it would do, writes nothing and makes no key', async () => {
    const cells = [...(await everyState()), { key: 'new', owner: 'newcomer', value: 'of newcomer' }]
    const source = memorySource(cells)
    const before = new Map(source.values)
    const rows = await fresh.store.census()
    const report = await sweep(source, { ...ALL_STATES, dryRun: true })
    expect(report).toMatchObject({
      complete: true,
      dryRun: true,
      before: { ...COUNTS, plaintext: 2 },
      after: { ...NONE, current: 8, empty: 1 },
      changed: 7,
      left: 0,
    })
    expect(source.values).toEqual(before)
    expect(source.asked).toEqual([])
    expect(await fresh.store.census()).toEqual(rows)
  })

  it('reports and leaves plaintext unless it is told to encrypt it', async () => {
    const source = memorySource([{ key: 'a', owner: 'alice', value: 'sk-secret' }])
    const report = await sweep(source)
    expect(report).toMatchObject({
      complete: true,
      changed: 0,
      before: { plaintext: 1 },
      after: { plaintext: 1 },
      left: 1,
      failedCount: 1,
      failed: [{ key: 'a', column: 'secret', owner: 'alice', code: 'ERR_NOT_ENCRYPTED' }],
    })
    expect(source.values.get('a')).toBe('sk-secret')
    expect(await fresh.store.census()).toEqual([])
  })

  it('never encrypts a token twice: what begins like one and does not open is reported and left', async () => {
    const token = await envelope.encrypt('alice', 'x', { column: CONTEXT })
    const tampered = `${token.slice(0, 30)}${token[30] === 'A' ? 'B' : 'A'}${token.slice(31)}`
    const withoutKey = `v3:${Buffer.from([0, 0, 0, 7, ...new Uint8Array(90)]).toString('base64url')}`
    const values: Record<string, [value: unknown, code: string]> = {
      cut: [token.slice(0, 40), 'ERR_MALFORMED_TOKEN'],
      prefix: ['v3:', 'ERR_MALFORMED_TOKEN'],
      v2Prefix: ['v2:hello', 'ERR_MALFORMED_TOKEN'],
      tampered: [tampered, 'ERR_DECRYPTION_FAILED'],
      foreign: [await envelope.encrypt('bob', 'x', { column: CONTEXT }), 'ERR_DECRYPTION_FAILED'],
      moved: [await envelope.encrypt('alice', 'x', { column: 'elsewhere' }), 'ERR_DECRYPTION_FAILED'],
      version: [withoutKey, 'ERR_KEY_NOT_FOUND'],
      number: [7, 'ERR_INVALID_ARGUMENT'],
      bytes: [new Uint8Array(3), 'ERR_INVALID_ARGUMENT'],
    }
    const cells = Object.entries(values).map(([key, [value]]) => ({
      key,
      owner: 'alice',
      value: value as string,
    }))
    const source = memorySource([...cells, { key: 'unknown', owner: 'nobody', value: token }])
    const greedy: LegacyReader = { name: 'greedy', test: () => true, decrypt: () => 'mine' }
    const report = await sweep(source, { plaintext: true, legacy: [greedy] })
    expect(report).toMatchObject({
      changed: 0,
      before: { unopenable: 10 },
      after: { unopenable: 10 },
      left: 10,
    })
    expect(Object.fromEntries(report.failed.map(({ key, code }) => [key, code]))).toEqual({
      ...Object.fromEntries(Object.entries(values).map(([key, [, code]]) => [key, code])),
      unknown: 'ERR_KEY_NOT_FOUND',
    })
    expect(source.asked).toEqual([])
    // Nor were keys made for those who have none.
    expect((await fresh.store.getAll(['nobody'])).size).toBe(0)
  })

  it('brings the shared pool’s values to date: v2, v3 and plaintext, of owner null or none', async () => {
    const cells = [
      { key: 'v2', owner: null, value: v2PoolToken(masterBytes, 'of v2') },
      { key: 'plaintext', value: 'of plaintext' },
      { key: 'broken', owner: null, value: v2PoolToken(randomBytes(32), 'of broken') },
      { key: 'alice', owner: null, value: await envelope.encrypt('alice', 'x', { column: CONTEXT }) },
    ]
    const source = memorySource(cells)
    // Before the pool has a key of its own, too.
    expect(await sweep(source, { plaintext: true })).toMatchObject({ changed: 2, before: { v2: 1 }, left: 2 })
    for (const key of ['v2', 'plaintext'])
      expect(await envelope.pool.decrypt(String(source.values.get(key)), { column: CONTEXT })).toBe(
        `of ${key}`,
      )
    const moved = await envelope.pool.encrypt('of moved', { column: 'earlier' })
    const again = memorySource([{ key: 'moved', value: moved }])
    expect(await sweep(again, { previousContexts: ['earlier'] })).toMatchObject({
      changed: 1,
      before: { oldContext: 1 },
    })
    expect(await sweep(again)).toMatchObject({ changed: 0, before: { current: 1 } })
  })

  it('without v2 accepted leaves v2 tokens, and says which option opens them', async () => {
    const token = await v2Token(envelope, 'alice', 'x')
    const strict = await EnvelopeCrypto.open({
      store: fresh.store,
      masterKeys: localMasterKey(masterBytes),
      closeStore: false,
    })
    const source = memorySource([
      { key: 'a', owner: 'alice', value: token },
      { key: 'p', value: v2PoolToken(masterBytes, 'x') },
    ])
    const report = await sweep(source, { envelope: strict })
    expect(report).toMatchObject({ changed: 0, after: { v2: 2 }, left: 2 })
    expect(report.failed.map(({ code, reason }) => [code, reason.includes('accept.tokens')])).toEqual([
      ['ERR_FORMAT_NOT_ACCEPTED', true],
      ['ERR_FORMAT_NOT_ACCEPTED', true],
    ])
  })

  it('reports and leaves the values of shredded owners, which are not left to do', async () => {
    const token = await envelope.encrypt('alice', 'x', { column: 'old' })
    const source = memorySource([
      { key: 'token', owner: 'alice', value: token },
      { key: 'v2', owner: 'alice', value: await v2Token(envelope, 'alice', 'x') },
      { key: 'plaintext', owner: 'alice', value: 'sk-secret' },
    ])
    await envelope.shredUser('alice')
    const report = await sweep(source, { plaintext: true, previousContexts: ['old'] })
    expect(report).toMatchObject({
      changed: 0,
      after: { shredded: 2, plaintext: 1 },
      failedCount: 3,
      left: 1,
    })
    expect(new Set(report.failed.map(({ code }) => code))).toEqual(new Set(['ERR_KEY_SHREDDED']))
    expect(source.asked).toEqual([])
  })

  it('lets whoever wrote meanwhile win, counts what it lost, and looks again', async () => {
    let raced = false
    const source = memorySource(
      [
        { key: 'a', owner: 'alice', value: 'before' },
        { key: 'b', owner: 'bob', value: 'of b' },
      ],
      (_, { values }) => {
        if (!raced) values.set('a', 'after')
        raced = true
      },
    )
    const report = await sweep(source, { plaintext: true })
    expect(report).toMatchObject({ complete: true, changed: 2, skipped: 1, after: { current: 2 }, left: 0 })
    expect(await decrypt('alice', source.values.get('a'))).toBe('after')
    expect(source.looks).toHaveLength(3)
  })

  it('ends under writers that never do, and says that it is not complete', async () => {
    const source = memorySource([{ key: 'a', owner: 'alice', value: 'x' }], (_, { values }) =>
      values.set('a', randomBytes(8).toString('hex')),
    )
    const report = await sweep(source, { plaintext: true })
    expect(report).toMatchObject({
      complete: false,
      changed: 0,
      skipped: 5,
      after: { plaintext: 1 },
      left: 1,
    })
    expect(source.looks).toHaveLength(5)
  })

  it('ends after the page in hand when it is aborted, and goes on when it is started again', async () => {
    const source = memorySource(users(50).map((owner) => ({ key: owner, owner, value: `of ${owner}` })))
    const controller = new AbortController()
    const progress: Progress[] = []
    const report = await sweep(source, {
      plaintext: true,
      batchSize: 10,
      signal: controller.signal,
      onProgress(now) {
        progress.push(now)
        if (now.done === 20) controller.abort()
      },
    })
    expect(report).toMatchObject({
      complete: false,
      changed: 20,
      before: { plaintext: 20 },
      after: { current: 20 },
    })
    expect(progress.map(({ done, total }) => [done, total])).toEqual([
      [10, 50],
      [20, 50],
    ])
    expect(await sweep(source, { plaintext: true })).toMatchObject({
      complete: true,
      changed: 30,
      before: { current: 20, plaintext: 30 },
      after: { current: 50 },
    })
    const aborted = await sweep(source, { signal: AbortSignal.abort() })
    expect(aborted).toMatchObject({ complete: false, changed: 0, before: NONE, left: 0 })
  })

  it('of a source that writes all at once has changed nothing when it is aborted', async () => {
    const source = memorySource(users(4).map((owner) => ({ key: owner, owner, value: 'x' })))
    const controller = new AbortController()
    const report = await sweep(
      { ...source, atOnce: true },
      { plaintext: true, batchSize: 2, signal: controller.signal, onProgress: () => controller.abort() },
    )
    expect(report).toMatchObject({
      complete: false,
      changed: 0,
      after: { plaintext: 2, current: 0 },
      left: 2,
    })
  })

  it('asks for all keys of a page at once, and makes those that are missing at once', async () => {
    const counted = countedStore(fresh.store)
    const other = await open(counted.store)
    const owners = users(300)
    const tokens = await Promise.all(
      owners.slice(0, 200).map((owner) => envelope.encrypt(owner, 'x', { column: 'old' })),
    )
    const source = memorySource(
      owners.map((owner, index) => ({ key: owner, owner, value: tokens[index] ?? 'plaintext' })),
    )
    const { getAll = 0 } = counted.calls
    const report = await sweep(source, {
      envelope: other,
      plaintext: true,
      previousContexts: ['old'],
      batchSize: 100,
    })
    expect(report).toMatchObject({ complete: true, changed: 300 })
    // Three pages, twice; those who had no key once more; and what the store's changes ask for.
    expect((counted.calls.getAll ?? 0) - getAll).toBeLessThanOrEqual(12)
    expect(counted.inserts).toEqual([100])
    await other.close()
  })

  it('gets new keys for a token of a version made since it looked', async () => {
    const inner = fresh.store
    let hidden = 1
    const stale = new Proxy(inner, {
      get(target, name) {
        const value: unknown = Reflect.get(target, name, target)
        if (typeof value !== 'function') return value
        if (name !== 'getAll') return value.bind(target)
        return async (...args: unknown[]) => {
          const result: unknown = await Reflect.apply(value, target, args)
          if (hidden === 0) return result
          hidden -= 1
          return new Map(
            [...(result as Map<string, { version: number }[]>)].map(([id, rows]) => [id, rows.slice(0, 1)]),
          )
        }
      },
    })
    const late = await open(stale)
    await envelope.encrypt('alice', 'x')
    await envelope.rotateUserKey('alice')
    const token = await envelope.encrypt('alice', 'x', { column: CONTEXT })
    const source = memorySource([{ key: 'a', owner: 'alice', value: token }])
    expect(await sweep(source, { envelope: late })).toMatchObject({ before: { current: 1 }, failedCount: 0 })
    expect(hidden).toBe(0)
    await late.close()
  })

  it('throws when the key store fails, instead of reporting its values as failed', async () => {
    const counted = countedStore(fresh.store)
    const other = await open(counted.store)
    const source = memorySource([{ key: 'a', owner: 'alice', value: 'x' }])
    for (const method of ['getAll', 'insertIfAbsent'] as const) {
      counted.failNext(method, new StoreError('down', { retryable: true }))
      expect(await errorOf(sweep(source, { envelope: other, plaintext: true }))).toMatchObject({
        code: 'ERR_STORE',
      })
    }
    expect(source.asked).toEqual([])
    await other.close()
  })

  it('reports an owner whose key is damaged, or is no user id, and goes on with the others', async () => {
    const token = await envelope.encrypt('alice', 'x', { column: 'old' })
    const [row] = (await fresh.store.getAll(['alice'])).get('alice') ?? []
    if (row === undefined) throw new Error('alice has no row')
    await fresh.store.insertIfAbsent([{ ...row, userId: 'mallory' }])
    const source = memorySource([
      { key: 'damaged', owner: 'mallory', value: token },
      { key: 'plaintext', owner: 'mallory', value: 'x' },
      { key: 'nobody', owner: '', value: token },
      { key: 'number', owner: 7 as never, value: 'x' },
      { key: 'good', owner: 'alice', value: token },
    ])
    const report = await sweep(source, { plaintext: true, previousContexts: ['old'] })
    expect(report).toMatchObject({ changed: 1, after: { current: 1, unopenable: 2, plaintext: 2 }, left: 4 })
    expect(report.failed.map(({ key, code }) => [key, code])).toEqual([
      ['damaged', 'ERR_UNWRAP_FAILED'],
      ['nobody', 'ERR_INVALID_ARGUMENT'],
      ['plaintext', 'ERR_UNWRAP_FAILED'],
      ['number', 'ERR_INVALID_ARGUMENT'],
    ])
  })

  it('keeps bytes that are no text', async () => {
    const bytes = Uint8Array.of(0xff, 0x00, 0xfe)
    const source = memorySource([
      { key: 'a', owner: 'alice', value: await envelope.encryptBytes('alice', bytes, { column: 'old' }) },
    ])
    expect(await sweep(source, { previousContexts: ['old'] })).toMatchObject({ changed: 1 })
    const token = String(source.values.get('a'))
    expect(await envelope.decryptBytes('alice', token, { column: CONTEXT })).toEqual(Buffer.from(bytes))
  })

  it('takes the context of the cell before that of the options, and makes it of the row', async () => {
    const source = memorySource<{ id: number }>([
      { key: 'row', owner: 'alice', value: 'x', row: { id: 7 } },
      { key: 'cell', owner: 'alice', value: 'x', row: { id: 8 }, context: 'of the cell' },
      { key: 'made', owner: 'alice', value: 'x', row: { id: 9 }, context: ({ id }) => ({ of: String(id) }) },
      { key: 'none', owner: 'alice', value: 'x', row: { id: 10 }, context: null },
    ])
    const context = ({ id }: { id: number }) => ({ column: CONTEXT, row: String(id) })
    expect(await reencrypt({ envelope, source, context, plaintext: true })).toMatchObject({
      changed: 4,
      left: 0,
    })
    const contexts = {
      row: { column: CONTEXT, row: '7' },
      cell: { column: 'of the cell' },
      made: { of: '9' },
      none: {},
    }
    for (const [key, expected] of Object.entries(contexts))
      expect(await envelope.decrypt('alice', String(source.values.get(key)), expected)).toBe('x')
  })

  it('reports a value whose context cannot be made, without what the function threw', async () => {
    const token = await envelope.encrypt('alice', 'x')
    const cells = [
      { key: 'throws', owner: 'alice', value: 'x', row: { id: 'throws' } },
      { key: 'bad', owner: 'alice', value: token, row: { id: 'bad' } },
      { key: 'good', owner: 'alice', value: 'x', row: { id: 'good' } },
    ]
    const source = memorySource<{ id: string }>(cells)
    const report = await reencrypt<{ id: string }>({
      envelope,
      source,
      plaintext: true,
      context({ id }) {
        if (id === 'throws') throw new Error('sk-planted')
        return id === 'bad' ? (7 as never) : id
      },
    })
    expect(report).toMatchObject({ changed: 1, after: { current: 1, plaintext: 1, unopenable: 1 }, left: 2 })
    expect(report.failed.map(({ code }) => code)).toEqual(['ERR_INVALID_ARGUMENT', 'ERR_INVALID_ARGUMENT'])
    expect(everythingOf(report)).not.toContain('sk-planted')
  })

  it('leaves a legacy value whose reader fails, gives nothing, or gives a token', async () => {
    const token = await envelope.encrypt('alice', 'x')
    const given: unknown[] = []
    const legacy: LegacyReader[] = [
      base64Reader,
      {
        name: 'other',
        test: (value) => value.startsWith('other:'),
        async decrypt(value, of) {
          given.push(of)
          const what = value.slice(6)
          if (what === 'throws') throw new Error(`cannot read ${value}`)
          if (what === 'token') return token
          return what === 'null' ? null : 'of other'
        },
      },
    ]
    const cells = ['throws', 'null', 'token', 'good'].map((what) => ({
      key: what,
      owner: 'alice',
      value: `other:${what}`,
      row: { what },
    }))
    const source = memorySource(cells)
    const report = await sweep(source, { legacy })
    expect(report).toMatchObject({ changed: 1, before: { 'legacy:other': 4, 'legacy:base64': 0 }, left: 3 })
    expect(report.failed.map(({ key, code }) => [key, code])).toEqual([
      ['throws', 'ERR_DECRYPTION_FAILED'],
      ['null', 'ERR_DECRYPTION_FAILED'],
      ['token', 'ERR_INVALID_ARGUMENT'],
    ])
    expect(everythingOf(report)).not.toContain('cannot read')
    expect(given[0]).toEqual({ key: 'throws', column: 'secret', owner: 'alice', row: { what: 'throws' } })
    expect(await decrypt('alice', source.values.get('good'))).toBe('of other')
    expect(source.values.get('token')).toBe('other:token')
  })

  it('opens each new token before the old value is gone', async () => {
    const source = memorySource([{ key: 'a', owner: 'alice', value: 'precious' }])
    const wrong = vi.spyOn(UserHandle.prototype, 'encryptBytes').mockImplementation(function (
      this: UserHandle,
    ) {
      return this.encrypt('something else', { column: CONTEXT })
    })
    try {
      expect(await errorOf(sweep(source, { plaintext: true }))).toMatchObject({
        code: 'ERR_DECRYPTION_FAILED',
      })
    } finally {
      wrong.mockRestore()
    }
    expect(source.values.get('a')).toBe('precious')
  })

  it('lists the first 1,000 failures, counts all, and shows no value', async () => {
    const source = memorySource(
      Array.from({ length: 1500 }, (_, index) => ({
        key: String(index),
        owner: 'alice',
        value: 'sk-planted',
      })),
    )
    const report = await sweep(source)
    expect(report).toMatchObject({ failedCount: 1500, left: 1500 })
    expect(report.failed).toHaveLength(1000)
    expect(report.failed[999]?.key).toBe('999')
    expect(everythingOf(report)).not.toContain('sk-planted')
  })

  it('refuses a missing context, another format, and wrong options', async () => {
    const source = memorySource([{ key: 'a', owner: 'alice', value: 'x' }])
    expect(await errorOf(reencrypt({ envelope, source, plaintext: true }))).toMatchObject(INVALID)
    const v2 = await fresh.open({ masterKeys: localMasterKey(masterBytes) })
    const wrong: Partial<Record<keyof ReencryptOptions, unknown>>[] = [
      { envelope: v2 },
      { envelope: {} },
      { source: { pages: source.pages } },
      { source: null },
      { previousContexts: 'old' },
      { previousContexts: [undefined] },
      { context: 7 },
      { legacy: [{ name: 'x' }] },
      { legacy: [base64Reader, base64Reader] },
      { batchSize: 0 },
      { onProgress: 'yes' },
    ]
    for (const options of wrong)
      expect(
        await errorOf(sweep(source, options as never)),
        JSON.stringify(Object.keys(options)),
      ).toMatchObject(INVALID)
    expect(source.asked).toEqual([])
    await v2.close()
  })

  it('passes on what the source throws', async () => {
    const source = memorySource([{ key: 'a', owner: 'alice', value: 'x' }], () => {
      throw new Error('disk full')
    })
    expect((await errorOf(sweep(source, { plaintext: true }))).message).toBe('disk full')
    expect(isToken(source.values.get('a'))).toBe(false)
  })
})

function users(count: number): string[] {
  return Array.from({ length: count }, (_, index) => `user-${index}`)
}
