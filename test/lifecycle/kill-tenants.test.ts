/** Users come under their tenants' keys and back, and tenants move to other roots, while four processes work and the work is killed. */
import { beforeEach, describe, expect, it } from 'vitest'
import {
  generateMasterKey,
  type MasterKeyring,
  masterKeyring,
  masterKeysFromEnv,
  type RewrapReport,
  verifyAll,
} from '../../src/index.js'
import {
  BATCH_SIZE,
  expectSound,
  KEYS,
  KILLS,
  killAt,
  killMoments,
  killRewraps,
  seed,
  TIMEOUT_MS,
} from '../support/child-kills.js'
import { type ChildScript, reportOf, startChild } from '../support/child-process.js'
import { type HandedOut, handOut, startTraffic, stopAll, unopened } from '../support/child-traffic.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { dialects } from '../support/databases.js'
import { countDeadlocks } from '../support/deadlocks.js'
import { withStore } from '../support/fresh-store.js'
import { expectInPlace, tenantByLastCharacter } from '../support/tenant-hierarchy.js'
import { userIds } from '../support/users.js'

const TENANTS = 8
const FLAT = {
  API_KEY_MASTER_KEY: generateMasterKey(),
  API_KEY_MASTER_KEY_PREVIOUS: generateMasterKey(),
  HANDLES_MAY_END: '1',
}
const HIERARCHY = { ...FLAT, TENANTS: String(TENANTS) }
/** Nobody has a tenant any more. */
const BACK = { ...FLAT, TENANTS: 'none' }
const flat = masterKeysFromEnv(FLAT)
const { primary, previous } = flat
const tenantOf = (userId: string) => tenantByLastCharacter(userId, TENANTS)
const hierarchy = masterKeyring({ primary, previous, tenantOf })

describe.each(dialects)('%s: tenants, with four processes at work', (dialect) => {
  const cleanups = cleanUpAfterEach()
  let url: string
  beforeEach(async () => {
    url = await cleanups.database(dialect)
  })

  function start(script: string, args: readonly string[], env: NodeJS.ProcessEnv): ChildScript {
    const child = startChild(script, [url, ...args], env)
    cleanups.add(child.kill)
    return child
  }

  async function startAll(processes: readonly NodeJS.ProcessEnv[]) {
    const traffic = await startTraffic({ url, users: KEYS, mint: true, processes })
    for (const { kill } of traffic) cleanups.add(kill)
    return traffic
  }

  const startRewrap = (env: NodeJS.ProcessEnv) => start('rewrap.mjs', [String(BATCH_SIZE)], env)

  async function rewrapWhole(env: NodeJS.ProcessEnv): Promise<RewrapReport> {
    const rewrap = startRewrap(env)
    rewrap.send('go')
    return reportOf<RewrapReport>(rewrap)
  }

  /** Expects every row to open under exactly the key that it is to be under, and every token to open. */
  async function expectSoundAndIn(
    keyring: MasterKeyring,
    expected: (userId: string) => string | null,
    tokens: readonly HandedOut[],
  ): Promise<void> {
    await withStore(url, async (store) => {
      await expectInPlace(store, keyring, expected)
      const { findings } = await verifyAll({ store, masterKeys: keyring })
      expect(findings.filter(({ severity }) => severity === 'error')).toEqual([])
    })
    expect(await unopened(url, keyring, tokens)).toEqual([])
    if (dialect === 'postgres') expect(await countDeadlocks(url)).toBe(0)
  }

  it(
    `rewraps of ${KEYS} keys to the hierarchy and back, killed ${KILLS} times each, lose none`,
    async ({ annotate }) => {
      await annotate(`KILL_SEED=${seed}`)
      const tokens = await handOut(url, flat, userIds(KEYS))
      // The deployment has begun: some processes know of tenants, and some do not.
      const traffic = await startAll([FLAT, FLAT, HIERARCHY, HIERARCHY])
      const there = await killRewraps(url, () => startRewrap(HIERARCHY))
      expect(there).toBeGreaterThan(0)
      tokens.push(...(await stopAll(traffic.slice(0, 2))))
      const report = await rewrapWhole(HIERARCHY)
      expect(report).toMatchObject({ complete: true, failedCount: 0 })
      tokens.push(...(await stopAll(traffic.slice(2))))
      await expectSoundAndIn(hierarchy, tenantOf, tokens)

      const others = await startAll([HIERARCHY, HIERARCHY, BACK, BACK])
      const back = await killRewraps(url, () => startRewrap(BACK))
      expect(back).toBeGreaterThan(0)
      tokens.push(...(await stopAll(others.slice(0, 2))))
      expect(await rewrapWhole(BACK)).toMatchObject({ complete: true, failedCount: 0 })
      tokens.push(...(await stopAll(others.slice(2))))
      await expectSoundAndIn(flat, () => null, tokens)
      console.info(`${dialect}: ${there} and ${back} of ${KILLS} kills hit a rewrap before its end`)
    },
    TIMEOUT_MS,
  )

  it(
    `moves of ${TENANTS} tenants that are killed ${KILLS} times lose none`,
    async ({ annotate }) => {
      await annotate(`KILL_SEED=${seed}`)
      const tokens = await handOut(url, hierarchy, userIds(KEYS))
      const traffic = await startAll([HIERARCHY, HIERARCHY, HIERARCHY, HIERARCHY])
      for (const moment of killMoments(KILLS, 3 * TENANTS)) {
        const moves = start('move-tenants.mjs', [], HIERARCHY)
        expect(await killAt(moves, moment)).toBe(true)
        expectSound(url)
        await withStore(url, (store) => expectInPlace(store, hierarchy, tenantOf))
      }
      tokens.push(...(await stopAll(traffic)))
      await expectSoundAndIn(hierarchy, tenantOf, tokens)
    },
    TIMEOUT_MS,
  )
})
