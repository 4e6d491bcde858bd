/**
 * The fault suite: the crypto service and the long operations on a store whose calls fail, come late, lose their answers or happen twice.
 * It takes the library as a parameter, as it takes the test functions: the service it tests is the one that the caller runs.
 */
import assert from 'node:assert/strict'
import { isTombstone } from '../table.js'
import {
  BATCH_SIZE,
  codeOf,
  eventually,
  expectCode,
  FEW_FAULTS,
  isErasedRow,
  patiently,
  ROUNDS,
  refOf,
  rowsOf,
  type TestedLibrary,
  type TestedService,
  USERS,
  World,
} from './fault-world.js'
import { itemAt } from './fixture.js'
import type { KeyStoreSubject, TestRunner } from './subject.js'

export interface FaultSuiteOptions {
  /** The seed of the only run of each test: repeats one that failed. */
  readonly seed?: number
  /** How many runs each test has, each with a seed of its own. Default 3. */
  readonly runs?: number
}

/**
 * Defines tests that run get-or-create, rotation, rewrap, shredding and copies on a faulty store ({@link faultyStore}), by several services
 * at once. They repeat what is refused, and check that one key for each user and version wins, that every token which was handed out
 * opens, that receipts and reports are true, that nobody shredded has a live key, that nothing in memory is missing in the store, and that
 * copies end equal.
 *
 * A test that fails names its seed.
 *
 * @param subject `open` must give a storage of its own each time: a copy needs two
 * @param library the module `drizzle-keystore`
 * @example
 * import * as library from 'drizzle-keystore'
 * import { testKeyStoreFaults } from 'drizzle-keystore/testing'
 *
 * testKeyStoreFaults({ describe, it, beforeEach, afterEach }, subject, library)
 */
export function testKeyStoreFaults(
  runner: Pick<TestRunner, 'describe' | 'it'>,
  subject: KeyStoreSubject,
  library: TestedLibrary,
  { seed: only, runs = 3 }: FaultSuiteOptions = {},
): void {
  const test = (name: string, body: (world: World) => Promise<void>) =>
    runner.it(name, async () => {
      let faults = 0
      for (let run = 0; run < (only === undefined ? runs : 1); run += 1) {
        const seed = only ?? Math.floor(Math.random() * 2 ** 31)
        const world = new World(subject, library, seed)
        try {
          await body(world)
        } catch (cause) {
          const reason = cause instanceof Error ? cause.message : String(cause)
          throw new Error(`With the seed ${seed} (repeat it with { seed: ${seed} }): ${reason}`, { cause })
        } finally {
          await world.end()
        }
        faults += world.faultCount
      }
      assert.ok(faults > 0 || only !== undefined, 'no call met a fault')
    })
  runner.describe(`KeyStore under faults: ${subject.name}`, () => {
    test('get-or-create: one key for each user wins, and every token opens', getOrCreate)
    test('rotate: one key for each version wins, reports are true, and every token opens', rotate)
    test('rewrap: all rows end under the primary while tokens are made, and every token opens', rewrap)
    test('rewrap: a report counts each row once, though writes happen twice', rewrapTwice)
    test('shred: receipts are true, nobody shredded has a live key, and every other token opens', shred)
    test('copy: repeated until it succeeds, it ends equal, and carries later mints and erasures', copy)
  })
}

async function getOrCreate(world: World): Promise<void> {
  const opened = await world.open()
  const services = await world.services(opened)
  const keys = new Map<string, Set<string>>()
  for (let round = 0; round < ROUNDS; round += 1)
    await Promise.all(
      services.flatMap((service) =>
        USERS.map(async (name) => {
          const userId = `${name} ${round}`
          await world.encrypt(service, userId)
          const key = await patiently(() => service.getOrCreateUserKey(userId))
          keys.set(userId, (keys.get(userId) ?? new Set()).add(Buffer.from(key).toString('hex')))
        }),
      ),
    )
  await world.heal()
  for (const [userId, found] of keys) assert.equal(found.size, 1, `${userId} was given ${found.size} keys`)
  const rows = await rowsOf(opened.store)
  assert.deepEqual(
    rows.map(refOf),
    [...keys.keys()].sort().map((userId) => [userId, 1]),
  )
  await world.expectTokensOpen(opened.store, world.oldKey)
}

async function rotate(world: World): Promise<void> {
  const opened = await world.open()
  const services = await world.services(opened)
  const rotated: string[] = []
  for (let round = 0; round < ROUNDS; round += 1)
    await Promise.all(
      services.flatMap((service) =>
        USERS.map(async (userId) => {
          await world.encrypt(service, userId)
          const report = await patiently(() => service.rotateUserKey(userId))
          if (report.rotated) rotated.push(JSON.stringify([report.userId, report.version]))
          const rows = (await opened.store.getAll([userId])).get(userId) ?? []
          assert.ok(
            rows.some(({ version }) => version === report.version),
            'a rotation reported a version that is not stored',
          )
          await world.encrypt(service, userId)
        }),
      ),
    )
  await world.heal()
  assert.equal(new Set(rotated).size, rotated.length, 'two rotations reported the same version as theirs')
  for (const userId of USERS) {
    const versions = ((await opened.store.getAll([userId])).get(userId) ?? []).map(({ version }) => version)
    assert.deepEqual(
      versions,
      versions.map((_, index) => index + 1),
      'versions are missing',
    )
  }
  await world.expectTokensOpen(opened.store, world.oldKey)
}

async function rewrap(world: World): Promise<void> {
  const { library, oldKey, newKey } = world
  const opened = await world.open()
  const minting = await world.service(opened.store)
  for (let i = 0; i < ROUNDS; i += 1)
    for (const userId of USERS) {
      await world.encrypt(minting, userId)
      await minting.rotateUserKey(userId)
    }
  const masterKeys = library.masterKeyring({ primary: newKey, previous: [oldKey] })
  const total = (await rowsOf(opened.store)).length
  const services = await world.services(opened, masterKeys)
  const rewrapping = services.slice(1).map(async () => {
    const store = await world.process(opened, FEW_FAULTS)
    const report = await patiently(() => library.rewrapAll({ store, masterKeys, batchSize: BATCH_SIZE }))
    assert.equal(report.failedCount, 0)
    if (report.complete) {
      const left = await opened.store.list({ limit: 1, notKekId: report.kekId })
      assert.deepEqual(left.map(refOf), [], 'a report said that all rows are rewrapped')
    }
    return report
  })
  const encrypting = services.map(async (service) => {
    for (const userId of USERS) await world.encrypt(service, userId)
  })
  const reports = await Promise.all(rewrapping)
  await Promise.all(encrypting)
  await world.heal()
  const changed = reports.reduce((sum, report) => sum + report.changed, 0)
  assert.ok(changed <= total, `reports counted ${changed} changes of ${total} rows`)
  const last = await library.rewrapAll({ store: opened.store, masterKeys, batchSize: BATCH_SIZE })
  assert.deepEqual([last.complete, last.failedCount], [true, 0])
  // The old master key is not needed any more.
  await world.close(minting)
  await world.expectTokensOpen(opened.store, newKey)
}

async function rewrapTwice(world: World): Promise<void> {
  const { library, oldKey, newKey } = world
  const opened = await world.open()
  const minting = await world.service(opened.store)
  for (const userId of USERS) await world.encrypt(minting, userId)
  const store = world.faulty(opened.store, { rate: 1, kinds: ['twice', 'delay'] })
  const masterKeys = library.masterKeyring({ primary: newKey, previous: [oldKey] })
  const report = await library.rewrapAll({ store, masterKeys, batchSize: BATCH_SIZE })
  const { complete, changed, skipped, failedCount } = report
  assert.deepEqual(
    { complete, changed, skipped, failedCount },
    { complete: true, changed: USERS.length, skipped: 0, failedCount: 0 },
  )
}

async function shred(world: World): Promise<void> {
  const opened = await world.open()
  const services = await world.services(opened)
  const [shredding, ...others] = services as [TestedService, ...TestedService[]]
  const ended = USERS.slice(0, 3)
  await Promise.all(
    USERS.map(async (userId) => {
      await world.encrypt(shredding, userId)
      await patiently(() => shredding.rotateUserKey(userId))
    }),
  )
  const receipts: Awaited<ReturnType<TestedService['shredUser']>>[] = []
  const shredded = ended.map(async (userId) => {
    let refusals = 0
    const receipt = await patiently(async () => {
      try {
        return await shredding.shredUser(userId)
      } catch (error) {
        refusals += 1
        // It happened all the same, perhaps: then the key in memory must not be used any more.
        const isErased = (await rowsOf(opened.store, userId)).every(isTombstone)
        if (isErased)
          await expectCode('ERR_KEY_SHREDDED', () => patiently(() => shredding.encrypt(userId, 'x')))
        throw error
      }
    })
    await expectCode('ERR_KEY_SHREDDED', () => patiently(() => shredding.encrypt(userId, 'x')))
    const rows = await rowsOf(opened.store, userId)
    assert.ok(rows.length > 0 && rows.every(isErasedRow), `${userId} has a live key`)
    const claimed = rows.filter(({ version }) => receipt.versions.includes(version))
    for (const row of claimed) assert.deepEqual(row.shreddedAt, receipt.at)
    assert.equal(claimed.length, receipt.versions.length, 'a receipt names a version that is not there')
    assert.deepEqual(new Set(receipt.kekIds), new Set(claimed.map(({ kekId }) => kekId)))
    // Without a refusal nobody else has erased any of them.
    if (refusals === 0) assert.equal(claimed.length, rows.length, 'a receipt leaves out a version')
    receipts.push(receipt)
  })
  const encrypting = others.flatMap((service) =>
    USERS.map(async (userId) => {
      for (let round = 0; round < ROUNDS; round += 1) {
        const isEnded = await world.encrypt(service, userId).then(
          () => false,
          (error) => {
            if (ended.includes(userId) && codeOf(error) === 'ERR_KEY_SHREDDED') return true
            throw error
          },
        )
        if (isEnded) return
      }
    }),
  )
  await Promise.all([...shredded, ...encrypting])
  await world.heal()
  assert.equal(receipts.length, ended.length)
  for (const userId of ended) {
    const rows = await rowsOf(opened.store, userId)
    assert.ok(rows.length > 0 && rows.every(isErasedRow), `${userId} has a live key`)
    for (const service of services)
      await eventually(() => expectCode('ERR_KEY_SHREDDED', () => service.encrypt(userId, 'x')))
  }
  await world.expectTokensOpen(opened.store, world.oldKey, ended)
}

async function copy(world: World): Promise<void> {
  const { library } = world
  const source = await world.open()
  const target = await world.open()
  if (target.store.maintenance === undefined) return
  const minting = await world.service(source.store)
  for (const userId of USERS) {
    await world.encrypt(minting, userId)
    await minting.rotateUserKey(userId)
  }
  await minting.shredUser(itemAt(USERS, 0))
  const from = world.faulty(source.store, FEW_FAULTS)
  const to = world.faulty(target.store, FEW_FAULTS)
  const options = { batchSize: BATCH_SIZE, applyErasures: true }
  const expectCopied = async () => {
    const report = await patiently(() => library.copyKeys({ from, to, ...options }))
    assert.deepEqual([report.complete, report.equal, report.extra], [true, true, 0])
    assert.deepEqual(
      await rowsOf(target.store),
      await rowsOf(source.store),
      'a report said that the stores are equal',
    )
  }
  await expectCopied()
  await world.encrypt(minting, 'grace')
  await minting.rotateUserKey(itemAt(USERS, 1))
  await minting.shredUser(itemAt(USERS, 2))
  await expectCopied()
  await world.heal()
  const again = await library.copyKeys({ from: source.store, to: target.store, ...options })
  assert.deepEqual([again.copied, again.equal], [0, true])
  await world.close(minting)
  const shredded = [itemAt(USERS, 0), itemAt(USERS, 2)]
  const copied = await world.service(target.store)
  for (const { userId, plaintext, token } of world.tokens)
    if (shredded.includes(userId)) await expectCode('ERR_KEY_SHREDDED', () => copied.decrypt(userId, token))
    else assert.equal(await copied.decrypt(userId, token), plaintext)
}
