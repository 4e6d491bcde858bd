/** The sweep of a source in memory: what becomes of values in every state, and which stay unchanged. */
import { randomBytes } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { EnvelopeCrypto, localMasterKey } from '../../src/index.js'
import { type LegacyReader, reencrypt } from '../../src/reencrypt/index.js'
import { errorOf } from '../support/errors.js'
import { backends } from '../support/fresh-store.js'
import { everythingOf } from '../support/leaks.js'
import { memorySource } from '../support/memory-source.js'
import { base64Reader, CONTEXT, freshSweep, NO_VALUES, type SweepTest } from '../support/sweeps.js'
import { FOREIGN_V3_TOKEN, v2PoolToken, v2Token, versionOf, withVersion } from '../support/tokens.js'

describe.each(backends)('reencrypt, keys on %s', (backend) => {
  let test: SweepTest
  beforeEach(async () => {
    test = await freshSweep(backend)
  })
  afterEach(() => test.remove())

  /** A value of Alice in each state. Its key is the state's name, its plaintext `of STATE`. */
  async function everyState() {
    const old = await test.envelope.encrypt('alice', 'of oldVersion', { column: CONTEXT })
    const v2 = await v2Token(test.envelope, 'alice', 'of v2')
    await test.envelope.rotateUserKey('alice')
    const values = {
      current: await test.envelope.encrypt('alice', 'of current', { column: CONTEXT }),
      oldVersion: old,
      oldContext: await test.envelope.encrypt('alice', 'of oldContext', { column: 'keys.value' }),
      withoutContext: await test.envelope.encrypt('alice', 'of withoutContext'),
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
  const COUNTS = { ...NO_VALUES, current: 1, oldVersion: 1, oldContext: 2, v2: 1, plaintext: 1, empty: 1 }

  it('brings values of every state to v3, the newest version and the given context, and leaves current ones alone', async () => {
    const source = memorySource(await everyState())
    const before = new Map(source.values)
    const report = await test.sweep(source, ALL_STATES)
    expect(report).toEqual({
      complete: true,
      dryRun: false,
      before: { ...COUNTS, 'legacy:base64': 1 },
      after: { ...NO_VALUES, current: 7, empty: 1, 'legacy:base64': 0 },
      changed: 6,
      skipped: 0,
      failed: [],
      failedCount: 0,
      left: 0,
      owners: { count: 1, withoutKey: 0 },
      findings: [],
    })
    for (const [key, value] of source.values) {
      if (key === 'empty') continue
      expect(await test.decrypt('alice', value)).toBe(`of ${key}`)
      expect(versionOf(String(value))).toBe(2)
    }
    for (const key of ['current', 'empty']) expect(source.values.get(key)).toBe(before.get(key))
    expect(test.events.filter(({ type }) => type === 'decryptFailed')).toEqual([])

    const asked = source.asked.length
    expect(await test.sweep(source, ALL_STATES)).toMatchObject({
      complete: true,
      changed: 0,
      before: { current: 7, empty: 1 },
    })
    expect(source.asked).toHaveLength(asked)
    // Two walks of the first sweep, the second because it had changed values, and one of the second sweep.
    expect(source.looks).toHaveLength(3)
  })

  it('with dryRun reports what it would do, writes nothing and mints no key', async () => {
    const cells = [...(await everyState()), { key: 'new', owner: 'newcomer', value: 'of newcomer' }]
    const source = memorySource(cells)
    const before = new Map(source.values)
    const rows = await test.store.census()
    const report = await test.sweep(source, { ...ALL_STATES, dryRun: true })
    expect(report).toMatchObject({
      complete: true,
      dryRun: true,
      before: { ...COUNTS, plaintext: 2 },
      after: { ...NO_VALUES, current: 8, empty: 1 },
      changed: 7,
      left: 0,
    })
    expect(source.values).toEqual(before)
    expect(source.asked).toEqual([])
    expect(await test.store.census()).toEqual(rows)
  })

  it('reports and leaves plaintext without the option plaintext', async () => {
    const source = memorySource([{ key: 'a', owner: 'alice', value: 'sk-secret' }])
    const report = await test.sweep(source)
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
    expect(await test.store.census()).toEqual([])
  })

  it('never encrypts a token twice: one that does not open, or was damaged, is reported and left', async () => {
    const token = await test.envelope.encrypt('alice', 'x', { column: CONTEXT })
    const tampered = `${token.slice(0, 30)}${token[30] === 'A' ? 'B' : 'A'}${token.slice(31)}`
    const values: Record<string, [value: unknown, code: string]> = {
      cut: [token.slice(0, 40), 'ERR_MALFORMED_TOKEN'],
      cutV2: [
        `${(await v2Token(test.envelope, 'alice', 'a secret of some length')).slice(0, 60)}`,
        'ERR_MALFORMED_TOKEN',
      ],
      replaced: [`${token.slice(0, 30)}\ufffd${token.slice(31)}`, 'ERR_MALFORMED_TOKEN'],
      tampered: [tampered, 'ERR_DECRYPTION_FAILED'],
      foreign: [await test.envelope.encrypt('bob', 'x', { column: CONTEXT }), 'ERR_DECRYPTION_FAILED'],
      moved: [await test.envelope.encrypt('alice', 'x', { column: 'elsewhere' }), 'ERR_DECRYPTION_FAILED'],
      version: [withVersion(FOREIGN_V3_TOKEN, 7), 'ERR_KEY_NOT_FOUND'],
      number: [7, 'ERR_INVALID_ARGUMENT'],
      bytes: [new Uint8Array(3), 'ERR_INVALID_ARGUMENT'],
    }
    const cells = Object.entries(values).map(([key, [value]]) => ({
      key,
      owner: 'alice',
      value: value as string,
    }))
    const source = memorySource([...cells, { key: 'unknown', owner: 'nobody', value: token }])
    const asked: string[] = []
    const reader: LegacyReader = {
      name: 'reader',
      test(value) {
        asked.push(value)
        return false
      },
      decrypt: () => 'mine',
    }
    const report = await test.sweep(source, { plaintext: true, legacy: [reader] })
    // It is not even shown a whole token.
    expect(asked).toEqual(['cut', 'cutV2', 'replaced'].map((name) => values[name]?.[0]))
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
    // No keys were minted for owners without one.
    expect((await test.store.getAll(['nobody'])).size).toBe(0)
  })

  it('brings values of the shared pool up to date: v2, v3 and plaintext, of owner null', async () => {
    const cells = [
      { key: 'v2', owner: null, value: v2PoolToken(test.masterBytes, 'of v2') },
      { key: 'plaintext', owner: null, value: 'of plaintext' },
      { key: 'broken', owner: null, value: v2PoolToken(randomBytes(32), 'of broken') },
      { key: 'alice', owner: null, value: await test.envelope.encrypt('alice', 'x', { column: CONTEXT }) },
    ]
    const source = memorySource(cells)
    // Works before the pool has a key of its own.
    expect(await test.sweep(source, { plaintext: true, pool: true })).toMatchObject({
      changed: 2,
      before: { v2: 1 },
      left: 2,
    })
    for (const key of ['v2', 'plaintext'])
      expect(await test.envelope.pool.decrypt(String(source.values.get(key)), { column: CONTEXT })).toBe(
        `of ${key}`,
      )
    const moved = await test.envelope.pool.encrypt('of moved', { column: 'earlier' })
    const again = { ...memorySource([{ key: 'moved', owner: null, value: moved }]), pool: true }
    expect(await test.sweep(again, { previousContexts: ['earlier'] })).toMatchObject({
      changed: 1,
      before: { oldContext: 1 },
    })
    expect(await test.sweep(again)).toMatchObject({ changed: 0, before: { current: 1 } })
  })

  describe('a value without an owner', () => {
    async function cells(owner: null | undefined) {
      const pooled = await test.envelope.pool.encrypt('x', { column: 'old' })
      return [
        { key: 'token', owner, value: pooled },
        { key: 'v2', owner, value: v2PoolToken(test.masterBytes, 'x') },
        { key: 'plaintext', owner, value: 'sk-of-nobody' },
        { key: 'none', owner, value: null },
        { key: 'alice', owner: 'alice', value: 'sk-of-alice' },
      ]
    }
    const options = { plaintext: true, previousContexts: ['old'] }

    it.each<[string, null | undefined, { pool?: boolean }]>([
      ['null', null, {}],
      ['null, where the option overrules the source', null, { pool: false }],
      ['undefined', undefined, {}],
      ['undefined, though the pool is named', undefined, { pool: true }],
    ])(
      'does not fall to the shared pool if its owner is %s: it is reported and stays',
      async (_, owner, pool) => {
        const source = memorySource(await cells(owner))
        const before = new Map(source.values)
        const swept = pool.pool === false ? Object.assign(source, { pool: true }) : source
        for (const dryRun of [true, false]) {
          const report = await test.sweep(swept, { ...options, ...pool, dryRun })
          expect(report).toMatchObject({
            changed: 1,
            after: { unopenable: 2, plaintext: 1, empty: 1, current: 1 },
            left: 3,
          })
          expect(report.failed.map(({ key, owner, code }) => [key, owner, code])).toEqual(
            ['token', 'v2', 'plaintext'].map((key) => [key, null, 'ERR_INVALID_ARGUMENT']),
          )
          for (const { reason } of report.failed) expect(reason).toContain('pool: true')
        }
        for (const key of ['token', 'v2', 'plaintext']) expect(source.values.get(key)).toBe(before.get(key))
      },
    )

    it.each(['option', 'source'])('belongs to the shared pool where the %s says so', async (where) => {
      const source = memorySource(await cells(null))
      const swept = where === 'source' ? Object.assign(source, { pool: true }) : source
      const report = await test.sweep(swept, { ...options, ...(where === 'option' ? { pool: true } : {}) })
      expect(report).toMatchObject({ changed: 4, left: 0 })
      const token = String(source.values.get('plaintext'))
      expect(await test.envelope.pool.decrypt(token, { column: CONTEXT })).toBe('sk-of-nobody')
    })

    it('needs true or false to say so', async () => {
      for (const pool of [1, 'yes', null])
        expect(await errorOf(test.sweep(memorySource([]), { pool: pool as never }))).toMatchObject({
          code: 'ERR_INVALID_ARGUMENT',
        })
    })
  })

  it('leaves v2 tokens if v2 is not accepted, and does not advise to accept them', async () => {
    const token = await v2Token(test.envelope, 'alice', 'x')
    const strict = await EnvelopeCrypto.open({
      store: test.store,
      masterKeys: localMasterKey(test.masterBytes),
      closeStore: false,
    })
    const source = memorySource([
      { key: 'a', owner: 'alice', value: token },
      { key: 'p', owner: null, value: v2PoolToken(test.masterBytes, 'x') },
    ])
    const report = await test.sweep(source, { envelope: strict, pool: true })
    expect(report).toMatchObject({ changed: 0, after: { v2: 2 }, left: 2 })
    expect(report.failed.map(({ code }) => code)).toEqual(Array(2).fill('ERR_FORMAT_NOT_ACCEPTED'))
    for (const { reason } of report.failed) {
      expect(reason).toContain('docs/REENCRYPT.md')
      expect(reason).not.toMatch(/accept[.:]/)
    }
  })

  it('reports and leaves the values of shredded owners, and does not count them as left to do', async () => {
    const token = await test.envelope.encrypt('alice', 'x', { column: 'old' })
    const source = memorySource([
      { key: 'token', owner: 'alice', value: token },
      { key: 'v2', owner: 'alice', value: await v2Token(test.envelope, 'alice', 'x') },
      { key: 'plaintext', owner: 'alice', value: 'sk-secret' },
    ])
    await test.envelope.shredUser('alice')
    const report = await test.sweep(source, { plaintext: true, previousContexts: ['old'] })
    expect(report).toMatchObject({
      changed: 0,
      after: { shredded: 2, plaintext: 1 },
      failedCount: 3,
      left: 1,
    })
    expect(new Set(report.failed.map(({ code }) => code))).toEqual(new Set(['ERR_KEY_SHREDDED']))
    expect(source.asked).toEqual([])
  })

  it('keeps the bytes of plaintexts that are no text', async () => {
    const bytes = Uint8Array.of(0xff, 0x00, 0xfe)
    const source = memorySource([
      {
        key: 'a',
        owner: 'alice',
        value: await test.envelope.encryptBytes('alice', bytes, { column: 'old' }),
      },
    ])
    expect(await test.sweep(source, { previousContexts: ['old'] })).toMatchObject({ changed: 1 })
    const token = String(source.values.get('a'))
    expect(await test.envelope.decryptBytes('alice', token, { column: CONTEXT })).toEqual(Buffer.from(bytes))
  })

  it('prefers the context of a cell to that of the options, and calls functions with the row', async () => {
    const source = memorySource<{ id: number }>([
      { key: 'row', owner: 'alice', value: 'x', row: { id: 7 } },
      { key: 'cell', owner: 'alice', value: 'x', row: { id: 8 }, context: 'of the cell' },
      { key: 'made', owner: 'alice', value: 'x', row: { id: 9 }, context: ({ id }) => ({ of: String(id) }) },
      { key: 'none', owner: 'alice', value: 'x', row: { id: 10 }, context: null },
    ])
    const context = ({ id }: { id: number }) => ({ column: CONTEXT, row: String(id) })
    expect(await reencrypt({ envelope: test.envelope, source, context, plaintext: true })).toMatchObject({
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
      expect(await test.envelope.decrypt('alice', String(source.values.get(key)), expected)).toBe('x')
  })

  it('reports a value whose context function fails, without the function’s error', async () => {
    const token = await test.envelope.encrypt('alice', 'x')
    const cells = [
      { key: 'throws', owner: 'alice', value: 'x', row: { id: 'throws' } },
      { key: 'bad', owner: 'alice', value: token, row: { id: 'bad' } },
      { key: 'good', owner: 'alice', value: 'x', row: { id: 'good' } },
    ]
    const source = memorySource<{ id: string }>(cells)
    const report = await reencrypt<{ id: string }>({
      envelope: test.envelope,
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

  it('leaves a legacy value if its reader fails, returns null or returns a token', async () => {
    const token = await test.envelope.encrypt('alice', 'x')
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
    const report = await test.sweep(source, { legacy })
    expect(report).toMatchObject({ changed: 1, before: { 'legacy:other': 4, 'legacy:base64': 0 }, left: 3 })
    expect(report.failed.map(({ key, code }) => [key, code])).toEqual([
      ['throws', 'ERR_DECRYPTION_FAILED'],
      ['null', 'ERR_DECRYPTION_FAILED'],
      ['token', 'ERR_INVALID_ARGUMENT'],
    ])
    expect(everythingOf(report)).not.toContain('cannot read')
    expect(given[0]).toEqual({ key: 'throws', column: 'secret', owner: 'alice', row: { what: 'throws' } })
    expect(await test.decrypt('alice', source.values.get('good'))).toBe('of other')
    expect(source.values.get('token')).toBe('other:token')
  })
})
