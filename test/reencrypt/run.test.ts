/** A run of the sweep: beside other writers, aborted, in pages, and with failing stores, failing sources and wrong options. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { UserHandle } from '../../src/envelope/user-handle.js'
import { isToken, type Progress, StoreError } from '../../src/index.js'
import { type ReencryptOptions, reencrypt } from '../../src/reencrypt/index.js'
import { errorOf } from '../support/errors.js'
import { backends } from '../support/fresh-store.js'
import { everythingOf } from '../support/leaks.js'
import { memorySource } from '../support/memory-source.js'
import { rowsOfUser } from '../support/rows.js'
import { countedStore, overriding } from '../support/store-doubles.js'
import { base64Reader, CONTEXT, freshSweep, NO_VALUES, type SweepTest } from '../support/sweeps.js'
import { userIds } from '../support/users.js'

const INVALID = { code: 'ERR_INVALID_ARGUMENT' }

describe.each(backends)('a run of reencrypt, keys on %s', (backend) => {
  let test: SweepTest
  beforeEach(async () => {
    test = await freshSweep(backend)
  })
  afterEach(() => test.remove())

  it('lets other writers win, counts the values it lost to them as skipped, and walks again', async () => {
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
    const report = await test.sweep(source, { plaintext: true })
    expect(report).toMatchObject({ complete: true, changed: 2, skipped: 1, after: { current: 2 }, left: 0 })
    expect(await test.decrypt('alice', source.values.get('a'))).toBe('after')
    expect(source.looks).toHaveLength(3)
  })

  it('ends though a writer never does, and is then not complete', async () => {
    const source = memorySource([{ key: 'a', owner: 'alice', value: 'x' }], (_, { values }) =>
      values.set('a', randomBytes(8).toString('hex')),
    )
    const report = await test.sweep(source, { plaintext: true })
    expect(report).toMatchObject({
      complete: false,
      changed: 0,
      skipped: 5,
      after: { plaintext: 1 },
      left: 1,
    })
    expect(source.looks).toHaveLength(5)
  })

  it('ends after the current page when it is aborted, and goes on when it is started again', async () => {
    const source = memorySource(userIds(50).map((owner) => ({ key: owner, owner, value: `of ${owner}` })))
    const controller = new AbortController()
    const progress: Progress[] = []
    const report = await test.sweep(source, {
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
      [0, 0],
      [10, 50],
      [20, 50],
    ])
    expect(await test.sweep(source, { plaintext: true })).toMatchObject({
      complete: true,
      changed: 30,
      before: { current: 20, plaintext: 30 },
      after: { current: 50 },
    })
    const aborted = await test.sweep(source, { signal: AbortSignal.abort() })
    expect(aborted).toMatchObject({ complete: false, changed: 0, before: NO_VALUES, left: 0 })
  })

  it('writes nothing of a page that comes when it is aborted already', async () => {
    const source = memorySource(userIds(6).map((owner) => ({ key: owner, owner, value: `of ${owner}` })))
    const controller = new AbortController()
    async function* pages(page: { readonly limit: number }) {
      let count = 0
      for await (const cells of source.pages(page)) {
        count += 1
        if (count === 2) controller.abort()
        yield cells
      }
    }
    const report = await test.sweep(
      { ...source, pages },
      { plaintext: true, batchSize: 2, signal: controller.signal },
    )
    expect(report).toMatchObject({
      complete: false,
      changed: 2,
      before: { plaintext: 2 },
      after: { current: 2 },
    })
    expect([...source.values.values()].filter((value) => isToken(value))).toHaveLength(2)
  })

  it('of a source that writes everything at its end has changed nothing when it is aborted', async () => {
    const source = memorySource(userIds(4).map((owner) => ({ key: owner, owner, value: 'x' })))
    const controller = new AbortController()
    const report = await test.sweep(
      { ...source, atOnce: true },
      {
        plaintext: true,
        batchSize: 2,
        signal: controller.signal,
        onProgress: ({ done }) => done > 0 && controller.abort(),
      },
    )
    expect(report).toMatchObject({
      complete: false,
      changed: 0,
      after: { plaintext: 2, current: 0 },
      left: 2,
    })
  })

  it('reads all keys of a page in one query, and mints missing ones in one insert', async () => {
    const counted = countedStore(test.store)
    const other = await test.open(counted.store)
    const owners = userIds(300)
    const tokens = await Promise.all(
      owners.slice(0, 200).map((owner) => test.envelope.encrypt(owner, 'x', { column: 'old' })),
    )
    const source = memorySource(
      owners.map((owner, index) => ({ key: owner, owner, value: tokens[index] ?? 'plaintext' })),
    )
    const { getAll = 0 } = counted.calls
    const report = await test.sweep(source, {
      envelope: other,
      plaintext: true,
      previousContexts: ['old'],
      batchSize: 100,
    })
    expect(report).toMatchObject({ complete: true, changed: 300 })
    // Three pages in two walks; once more for owners without a key; and the cache's queries after reported changes.
    expect((counted.calls.getAll ?? 0) - getAll).toBeLessThanOrEqual(12)
    expect(counted.inserts).toEqual([100])
    await other.close()
  })

  it('reads keys again for a token of a version that was made after its read', async () => {
    let hidden = 1
    const stale = overriding(test.store, {
      async getAll(ids) {
        const found = await test.store.getAll(ids)
        if (hidden === 0) return found
        hidden -= 1
        return new Map([...found].map(([id, rows]) => [id, rows.slice(0, 1)]))
      },
    })
    const late = await test.open(stale)
    await test.envelope.encrypt('alice', 'x')
    await test.envelope.rotateUserKey('alice')
    const token = await test.envelope.encrypt('alice', 'x', { column: CONTEXT })
    const source = memorySource([{ key: 'a', owner: 'alice', value: token }])
    expect(await test.sweep(source, { envelope: late })).toMatchObject({
      before: { current: 1 },
      failedCount: 0,
    })
    expect(hidden).toBe(0)
    await late.close()
  })

  it('throws when the key store fails, and does not report values as failed', async () => {
    const counted = countedStore(test.store)
    const other = await test.open(counted.store)
    const source = memorySource([{ key: 'a', owner: 'alice', value: 'x' }])
    for (const method of ['getAll', 'insertIfAbsent'] as const) {
      counted.failNext(method, new StoreError('down', { retryable: true }))
      expect(await errorOf(test.sweep(source, { envelope: other, plaintext: true }))).toMatchObject({
        code: 'ERR_STORE',
      })
    }
    expect(source.asked).toEqual([])
    await other.close()
  })

  it('reports values whose owner has a damaged key or is no user id, and goes on with the others', async () => {
    const token = await test.envelope.encrypt('alice', 'x', { column: 'old' })
    const [row] = await rowsOfUser(test.store, 'alice')
    if (row === undefined) throw new Error('alice has no row')
    await test.store.insertIfAbsent([{ ...row, userId: 'mallory' }])
    const source = memorySource([
      { key: 'damaged', owner: 'mallory', value: token },
      { key: 'plaintext', owner: 'mallory', value: 'x' },
      { key: 'nobody', owner: '', value: token },
      { key: 'number', owner: 7 as never, value: 'x' },
      { key: 'good', owner: 'alice', value: token },
    ])
    const report = await test.sweep(source, { plaintext: true, previousContexts: ['old'] })
    expect(report).toMatchObject({ changed: 1, after: { current: 1, unopenable: 2, plaintext: 2 }, left: 4 })
    expect(report.failed.map(({ key, code }) => [key, code])).toEqual([
      ['damaged', 'ERR_UNWRAP_FAILED'],
      ['nobody', 'ERR_INVALID_ARGUMENT'],
      ['plaintext', 'ERR_UNWRAP_FAILED'],
      ['number', 'ERR_INVALID_ARGUMENT'],
    ])
  })

  it('opens each new token before it replaces the old value', async () => {
    const source = memorySource([{ key: 'a', owner: 'alice', value: 'precious' }])
    const wrong = vi.spyOn(UserHandle.prototype, 'encryptBytes').mockImplementation(function (
      this: UserHandle,
    ) {
      return this.encrypt('something else', { column: CONTEXT })
    })
    try {
      expect(await errorOf(test.sweep(source, { plaintext: true }))).toMatchObject({
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
    const report = await test.sweep(source)
    expect(report).toMatchObject({ failedCount: 1500, left: 1500 })
    expect(report.failed).toHaveLength(1000)
    expect(report.failed[999]?.key).toBe('999')
    expect(everythingOf(report)).not.toContain('sk-planted')
  })

  it('refuses a missing context, another format, and wrong options', async () => {
    const source = memorySource([{ key: 'a', owner: 'alice', value: 'x' }])
    expect(await errorOf(reencrypt({ envelope: test.envelope, source, plaintext: true }))).toMatchObject(
      INVALID,
    )
    const v2 = await test.openV2()
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
        await errorOf(test.sweep(source, options as never)),
        JSON.stringify(Object.keys(options)),
      ).toMatchObject(INVALID)
    expect(source.asked).toEqual([])
    await v2.close()
  })

  it('throws the error of the source', async () => {
    const source = memorySource([{ key: 'a', owner: 'alice', value: 'x' }], () => {
      throw new Error('disk full')
    })
    expect((await errorOf(test.sweep(source, { plaintext: true }))).message).toBe('disk full')
    expect(isToken(source.values.get('a'))).toBe(false)
  })
})
