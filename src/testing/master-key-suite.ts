/**
 * The conformance suite of {@link MasterKey}: what every key service has to hold, ours or a third party's. It takes the test functions as
 * parameters, as `testKeyStore` does.
 */
import assert from 'node:assert/strict'
import { isKeystoreError, type MasterKeyReason } from '../errors.js'
import type { KeyOwner, MasterKey } from '../master-keys/master-key.js'
import { assertHidden, formsOf } from './hidden.js'
import type { TestRunner } from './subject.js'

/**
 * Makes the service fail for one reason, until what it returns is called.
 *
 * @example
 * { denied: async () => { server.deny = true; return async () => { server.deny = false } } }
 */
export type MasterKeyFailures = { readonly [Reason in MasterKeyReason]?: () => Promise<() => Promise<void>> }

/** A master key for one test. Each optional member makes the suite stricter. */
export interface OpenedMasterKey {
  /** The master key under test. */
  readonly masterKey: MasterKey
  /** Another instance of the same key, such as another process has. */
  again(): Promise<MasterKey>
  /** Another key of the same service, or of another one with the same kind of blobs. */
  other?(): Promise<MasterKey>
  /** What may be in no error and in no property of the key that is printed: its PIN, its token. Texts of 8 characters or more. */
  readonly secrets?: readonly string[]
  readonly failures?: MasterKeyFailures
  /** Closes and removes everything. */
  close?(): Promise<void>
}

/** A kind of master key to test. */
export interface MasterKeySubject {
  /** Stands in the name of the suite. */
  readonly name: string
  /** Called for each test. */
  open(): Promise<OpenedMasterKey>
}

/** Each byte of a wrap up to so many is changed, of a longer one as many, evenly. */
const CHANGED_BYTES = 160
const CALLS_AT_ONCE = 64
/** What the core gives a call, where the key says nothing else: master-keys/service-calls.ts. */
const TIME_LIMIT_MS = 5000

const ALICE: KeyOwner = Object.freeze({ userId: 'alice', version: 1, tenantId: null })
const OWNERS: readonly KeyOwner[] = [
  ALICE,
  { userId: '', version: 1, tenantId: null },
  { userId: 'e\u0301 \'\u202e\uff5e\u{1f600}\n"\\', version: 2 ** 31 - 1, tenantId: null },
  { userId: 'x'.repeat(512), version: 2, tenantId: null },
  { userId: '\u0001tenant:acme \u{1f3e2}', version: 3, tenantId: 'acme \u{1f3e2}' },
]

/**
 * Defines the tests that a {@link MasterKey} must pass to keep its contract: one key for all its instances, wraps that open only unchanged,
 * with their AAD and under their key, arrays that belong to the caller, calls at once, every kind of owner, and errors that say why and
 * tell no secret. Optional members of the subject are tested if it has them.
 *
 * @example
 * import { describe, it } from 'vitest'
 *
 * testMasterKey({ describe, it }, {
 *   name: 'my service',
 *   async open() {
 *     const server = await startServer()
 *     return {
 *       masterKey: myMasterKey({ url: server.url, key: 'a' }),
 *       again: async () => myMasterKey({ url: server.url, key: 'a' }),
 *       other: async () => myMasterKey({ url: server.url, key: 'b' }),
 *       close: () => server.close(),
 *     }
 *   },
 * })
 */
export function testMasterKey(runner: Pick<TestRunner, 'describe' | 'it'>, subject: MasterKeySubject): void {
  const test = (name: string, body: (opened: OpenedMasterKey) => Promise<void>) =>
    runner.it(name, async () => {
      const opened = await subject.open()
      try {
        assertSubject(opened)
        await body(opened)
      } finally {
        await opened.close?.()
      }
    })
  runner.describe(`MasterKey contract: ${subject.name}`, () => {
    test('has one permanent id that a row can hold', hasPermanentId)
    test('wraps 32 random bytes, and unwraps them', roundTrip)
    test('opens what another instance wrapped', opensOfAnotherInstance)
    test('wraps equal keys to different bytes', wrapsDiffer)
    test('refuses a wrap with any byte changed', refusesChanged)
    test('refuses a wrap that is cut, extended, empty or made up', refusesOtherLengths)
    test('refuses another AAD', refusesOtherAad)
    test("refuses another key's wrap, if `other` is given", refusesOtherKey)
    test('takes an AAD of 0 and of 2,000 bytes', takesAnyAad)
    test('takes every kind of owner, and changes none', takesOwners)
    test('gives a new array each time, which the caller may overwrite', givesNewArrays)
    test('neither changes nor keeps the arrays it was given', leavesInputs)
    test(`answers ${CALLS_AT_ONCE} calls at once, each with its own key`, answersAtOnce)
    test('works on after calls that failed', worksAfterFailures)
    test('tells no key, no user and none of the given `secrets` in errors and properties', tellsNoSecret)
    test(
      'says why the service failed, for each of the given `failures`, and works again once it does',
      saysWhy,
    )
  })
}

/** A subject may be written in JavaScript. */
function assertSubject({ masterKey, again }: OpenedMasterKey): void {
  for (const method of ['wrap', 'unwrap'] as const)
    assert.equal(
      typeof masterKey?.[method],
      'function',
      `open() must return a masterKey that has ${method}()`,
    )
  assert.equal(
    typeof again,
    'function',
    'open() must return again(), which makes another instance of the same key, as another process has it',
  )
}

async function hasPermanentId({ masterKey, again, other }: OpenedMasterKey): Promise<void> {
  const { id } = masterKey
  assert.ok(typeof id === 'string' && id.trim() !== '', 'id must be a string that is not empty')
  assert.ok(id.isWellFormed() && !id.includes('\0'), 'id must be text that both databases store')
  assert.ok(!/^(local-v2|tenant):/.test(id), 'ids of local-v2: and tenant: are the keystore’s own')
  assert.equal(
    (await again()).id,
    id,
    'another instance must have the same id: it is recorded in each row, for ever',
  )
  await wrapped(masterKey, randomBytes(32))
  assert.equal(masterKey.id, id, 'id changed')
  if (other) assert.notEqual((await other()).id, id, 'another key has the same id')
  const { timeLimitMs } = masterKey
  assert.ok(timeLimitMs === undefined || timeLimitMs > 0, 'timeLimitMs must be above 0')
}

async function roundTrip({ masterKey }: OpenedMasterKey): Promise<void> {
  for (let i = 0; i < 8; i += 1) {
    const dataKey = randomBytes(32)
    const wrap = await wrapped(masterKey, dataKey)
    assert.ok(Buffer.from(wrap).indexOf(dataKey) === -1, 'the wrap has the key in it')
    assertKey(await unwrapped(masterKey, wrap), dataKey)
  }
}

async function opensOfAnotherInstance({ masterKey, again }: OpenedMasterKey): Promise<void> {
  const second = await again()
  const dataKey = randomBytes(32)
  assertKey(await unwrapped(second, await wrapped(masterKey, dataKey)), dataKey)
  assertKey(await unwrapped(masterKey, await wrapped(second, dataKey)), dataKey)
}

async function wrapsDiffer({ masterKey }: OpenedMasterKey): Promise<void> {
  const dataKey = randomBytes(32)
  const wraps = await Promise.all(Array.from({ length: 8 }, () => wrapped(masterKey, dataKey)))
  assert.equal(new Set(wraps.map((wrap) => Buffer.from(wrap).toString('hex'))).size, wraps.length)
}

async function refusesChanged({ masterKey }: OpenedMasterKey): Promise<void> {
  const wrap = await wrapped(masterKey, randomBytes(32))
  const count = Math.min(wrap.length, CHANGED_BYTES)
  const places = Array.from({ length: count }, (_, i) =>
    count === 1 ? 0 : Math.floor((i * (wrap.length - 1)) / (count - 1)),
  )
  await inTurns(places, async (place) => {
    const changed = Uint8Array.from(wrap)
    changed[place] = (changed[place] as number) ^ (1 << (place % 8))
    await assertRefused(masterKey, changed, aadOf('alice'), `byte ${place} of ${wrap.length} changed`)
  })
}

async function refusesOtherLengths({ masterKey }: OpenedMasterKey): Promise<void> {
  const wrap = await wrapped(masterKey, randomBytes(32))
  const { length } = wrap
  const lengths = [...new Set([0, 1, 12, 28, 32, Math.floor(length / 2), length - 16, length - 1])]
  for (const cut of lengths.filter((cut) => cut >= 0 && cut < length))
    await assertRefused(masterKey, wrap.slice(0, cut), aadOf('alice'), `cut to ${cut} bytes`)
  await assertRefused(masterKey, wrap.slice(1), aadOf('alice'), 'without its first byte')
  await assertRefused(masterKey, Uint8Array.of(...wrap, 0), aadOf('alice'), 'with a byte more')
  await assertRefused(masterKey, Uint8Array.of(...wrap, ...wrap), aadOf('alice'), 'twice')
  await assertRefused(masterKey, new Uint8Array(length), aadOf('alice'), 'zeros')
  await assertRefused(masterKey, randomBytes(length), aadOf('alice'), 'random bytes')
  await assertRefused(masterKey, randomBytes(32), aadOf('alice'), '32 random bytes')
}

async function refusesOtherAad({ masterKey }: OpenedMasterKey): Promise<void> {
  const aad = aadOf('alice')
  const wrap = await wrapped(masterKey, randomBytes(32), aad)
  await assertBound(masterKey, wrap, aadOf('bob'), 'the AAD of bob')
  await assertBound(masterKey, wrap, aad.slice(0, -1), 'the AAD without its last byte')
  await assertBound(masterKey, wrap, Uint8Array.of(...aad, 0), 'the AAD with a byte more')
  await assertBound(masterKey, wrap, new Uint8Array(0), 'no AAD')
  const unbound = await wrapped(masterKey, randomBytes(32), new Uint8Array(0))
  await assertBound(masterKey, unbound, aad, 'an AAD where none was')
  const long = randomBytes(2000)
  const longWrap = await wrapped(masterKey, randomBytes(32), long)
  long[1999] = (long[1999] as number) ^ 1
  await assertBound(masterKey, longWrap, long, 'the last of 2,000 bytes of AAD changed')
}

async function refusesOtherKey({ masterKey, other }: OpenedMasterKey): Promise<void> {
  if (!other) return
  const second = await other()
  const wrap = await wrapped(masterKey, randomBytes(32))
  await assertRefused(second, wrap, aadOf('alice'), 'a wrap of the first key')
  await assertRefused(
    masterKey,
    await wrapped(second, randomBytes(32)),
    aadOf('alice'),
    'a wrap of the other',
  )
}

async function takesAnyAad({ masterKey }: OpenedMasterKey): Promise<void> {
  const everyByte = Uint8Array.from({ length: 2000 }, (_, i) => i % 256)
  for (const aad of [new Uint8Array(0), Uint8Array.of(0), everyByte]) {
    const dataKey = randomBytes(32)
    assertKey(await unwrapped(masterKey, await wrapped(masterKey, dataKey, aad), aad), dataKey)
  }
}

async function takesOwners({ masterKey }: OpenedMasterKey): Promise<void> {
  for (const owner of OWNERS) {
    const dataKey = randomBytes(32)
    const aad = aadOf(owner.userId)
    const given = Object.freeze({ ...owner })
    const wrap = await wrapped(masterKey, dataKey, aad, given)
    assertKey(await unwrapped(masterKey, wrap, aad, given), dataKey)
    await assertBound(masterKey, wrap, aadOf('somebody else'), 'the AAD of somebody else', owner)
  }
}

async function givesNewArrays({ masterKey }: OpenedMasterKey): Promise<void> {
  const dataKey = randomBytes(32)
  const wrap = await wrapped(masterKey, dataKey)
  const stored = Uint8Array.from(wrap)
  const first = await unwrapped(masterKey, wrap)
  const second = await unwrapped(masterKey, wrap)
  first.fill(0)
  assertKey(second, dataKey)
  second.fill(0xff)
  assertKey(await unwrapped(masterKey, wrap), dataKey)
  assert.deepEqual(Uint8Array.from(wrap), stored, 'the wrapped bytes changed with the key')
  const again = await wrapped(masterKey, dataKey)
  const kept = Uint8Array.from(again)
  ;(await wrapped(masterKey, dataKey)).fill(0)
  assert.deepEqual(Uint8Array.from(again), kept, 'two wraps share their bytes')
  wrap.fill(0)
  assertKey(await unwrapped(masterKey, stored), dataKey)
}

async function leavesInputs({ masterKey }: OpenedMasterKey): Promise<void> {
  const wanted = randomBytes(32)
  const dataKey = within(wanted)
  const aad = within(aadOf('alice'))
  const wrap = await wrapped(masterKey, dataKey, aad)
  assertKey(dataKey, wanted)
  assert.deepEqual(Uint8Array.from(aad), aadOf('alice'), 'wrap changed the AAD')
  // The core wipes the key as soon as it has the wrap.
  dataKey.fill(0)
  aad.fill(0)
  const given = within(wrap)
  const givenAad = within(aadOf('alice'))
  assertKey(await unwrapped(masterKey, given, givenAad), wanted)
  assert.deepEqual(Uint8Array.from(given), Uint8Array.from(wrap), 'unwrap changed the wrapped bytes')
  assert.deepEqual(Uint8Array.from(givenAad), aadOf('alice'), 'unwrap changed the AAD')
  given.fill(0)
  assertKey(await unwrapped(masterKey, wrap, aadOf('alice')), wanted)
}

async function answersAtOnce({ masterKey }: OpenedMasterKey): Promise<void> {
  const keys = Array.from({ length: CALLS_AT_ONCE }, () => randomBytes(32))
  const aads = keys.map((_, i) => aadOf(`user ${i}`))
  const wraps = await Promise.all(keys.map((key, i) => wrapped(masterKey, key, aads[i])))
  const opened = await Promise.all(
    wraps.map((wrap, i) =>
      i % 4 === 3
        ? assertBound(masterKey, wrap, aadOf('nobody'), 'the AAD of nobody')
        : unwrapped(masterKey, wrap, aads[i]),
    ),
  )
  for (const [i, key] of opened.entries()) if (key) assertKey(key, keys[i] as Uint8Array)
}

async function worksAfterFailures({ masterKey }: OpenedMasterKey): Promise<void> {
  const dataKey = randomBytes(32)
  const wrap = await wrapped(masterKey, dataKey)
  for (let i = 0; i < 24; i += 1) await assertBound(masterKey, wrap, aadOf('bob'), 'the AAD of bob')
  assertKey(await unwrapped(masterKey, wrap), dataKey)
  assertKey(await unwrapped(masterKey, await wrapped(masterKey, dataKey)), dataKey)
}

async function tellsNoSecret({ masterKey, secrets = [] }: OpenedMasterKey): Promise<void> {
  const owner = {
    userId: 'a-user-id-that-nobody-may-see',
    version: 1,
    tenantId: 'a-tenant-that-nobody-may-see',
  }
  const aad = aadOf(owner.userId)
  const dataKey = randomBytes(32)
  const wrap = await wrapped(masterKey, dataKey, aad, owner)
  assertKey(await unwrapped(masterKey, wrap, aad, owner), dataKey)
  const hidden = [dataKey, wrap, aad, owner.userId, owner.tenantId, ...secrets].flatMap(formsOf)
  const changed = Uint8Array.from(wrap)
  changed[wrap.length - 1] = (changed[wrap.length - 1] as number) ^ 1
  const attempts = [changed, wrap.slice(0, -1), new Uint8Array(0)]
  for (const attempt of attempts) {
    const error = await errorOf(
      () => masterKey.unwrap(attempt, aad, owner),
      'unwrap opened a wrap that was changed',
    )
    assertHidden(error, [...hidden, ...(attempt.length > 0 ? formsOf(attempt) : [])], 'An error')
  }
  assertHidden(masterKey, hidden, 'The master key')
}

async function saysWhy({ masterKey, failures = {}, secrets = [] }: OpenedMasterKey): Promise<void> {
  const dataKey = randomBytes(32)
  const wrap = await wrapped(masterKey, dataKey)
  const hidden = [dataKey, wrap, ...secrets].flatMap(formsOf)
  for (const [reason, fail] of Object.entries(failures)) {
    const restore = await fail()
    try {
      for (const [what, call] of [
        ['wrap', () => masterKey.wrap(dataKey, aadOf('alice'), ALICE)],
        ['unwrap', () => masterKey.unwrap(wrap, aadOf('alice'), ALICE)],
      ] as const) {
        const started = Date.now()
        const error = await errorOf(call, `${what} worked although the service failed: ${reason}`)
        const text =
          `${what} must throw a MasterKeyError with code ERR_MASTER_KEY and reason ${reason}, which is retryable if it is an outage, ` +
          `and threw ${String(error)}`
        assert.ok(isKeystoreError(error) && error.name === 'MasterKeyError', text)
        assert.equal(error.code, 'ERR_MASTER_KEY', text)
        assert.equal('reason' in error ? error.reason : undefined, reason, text)
        assert.equal(error.retryable, reason === 'unavailable' || reason === 'throttled', text)
        assert.ok(Date.now() - started <= (masterKey.timeLimitMs ?? TIME_LIMIT_MS), `${text}: too late`)
        assertHidden(error, hidden, 'An error')
      }
    } finally {
      await restore()
    }
    assertKey(await unwrapped(masterKey, wrap), dataKey)
    assertKey(await unwrapped(masterKey, await wrapped(masterKey, dataKey)), dataKey)
  }
}

async function wrapped(
  key: MasterKey,
  dataKey: Uint8Array,
  aad: Uint8Array = aadOf('alice'),
  owner: KeyOwner = ALICE,
): Promise<Uint8Array> {
  const wrap = await key.wrap(dataKey, aad, owner)
  assert.ok(wrap instanceof Uint8Array && wrap.length > 0, 'wrap must return bytes')
  return wrap
}

async function unwrapped(
  key: MasterKey,
  wrap: Uint8Array,
  aad: Uint8Array = aadOf('alice'),
  owner: KeyOwner = ALICE,
): Promise<Uint8Array> {
  const dataKey = await key.unwrap(wrap, aad, owner)
  assert.ok(dataKey instanceof Uint8Array, 'unwrap must return bytes')
  return dataKey
}

/** @param advice what to do if unwrap opens it */
async function assertRefused(
  key: MasterKey,
  wrap: Uint8Array,
  aad: Uint8Array,
  what: string,
  { owner = ALICE, advice = 'verify the bytes, for example by the tag of an AEAD' } = {},
): Promise<void> {
  const error = await errorOf(() => key.unwrap(wrap, aad, owner), `${what}: unwrap opened it: ${advice}`)
  const wanted = `${what}: unwrap must throw a MasterKeyError with code ERR_UNWRAP_FAILED, and threw`
  assert.ok(isKeystoreError(error) && error.name === 'MasterKeyError', `${wanted} ${String(error)}`)
  assert.equal(error.code, 'ERR_UNWRAP_FAILED', `${wanted} ${error.code}: ${String(error)}`)
  assert.equal(error.retryable, false, `${what}: unwrap must throw an error that is not retryable`)
}

/** Another AAD than that of the wrap. */
function assertBound(
  key: MasterKey,
  wrap: Uint8Array,
  aad: Uint8Array,
  what: string,
  owner: KeyOwner = ALICE,
): Promise<void> {
  const advice = 'wrap must bind the AAD, for example as the additional data of an AEAD'
  return assertRefused(key, wrap, aad, what, { owner, advice })
}

/** @param succeeded what is wrong if it does not fail */
async function errorOf(call: () => unknown, succeeded: string): Promise<unknown> {
  try {
    await call()
  } catch (error) {
    return error
  }
  throw new assert.AssertionError({ message: succeeded })
}

/** Says nothing of the bytes: a failed test is printed. */
function assertKey(actual: Uint8Array, expected: Uint8Array): void {
  assert.equal(actual.length, expected.length, 'another number of bytes')
  assert.ok(Buffer.compare(actual, expected) === 0, 'other bytes')
}

/** The same bytes in the middle of a larger buffer: who reads `bytes.buffer` reads others. */
function within(bytes: Uint8Array): Uint8Array {
  const all = new Uint8Array(bytes.length + 64).fill(0xa5)
  all.set(bytes, 32)
  return all.subarray(32, 32 + bytes.length)
}

/** Bytes that stand for a row's AAD. */
function aadOf(userId: string): Uint8Array {
  return Uint8Array.from(Buffer.from(`test\0${userId}\0\u00ff1`, 'utf8'))
}

/** Test data, no key that protects anything. */
function randomBytes(length: number): Uint8Array {
  return Uint8Array.from({ length }, () => Math.floor(Math.random() * 256))
}

/** Sixteen at once, as the core asks. */
async function inTurns<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  for (let at = 0; at < items.length; at += 16) await Promise.all(items.slice(at, at + 16).map(work))
}
