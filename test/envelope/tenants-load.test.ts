/** Tenants with roots of their own, under load of four processes: one that denies, hangs and comes back harms nobody else's. */
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { generateMasterKey } from '../../src/index.js'
// @ts-expect-error It is JavaScript, since child processes run it as well.
import { tenantKeyring } from '../children/tenant-roots.mjs'
import { type ChildScript, startChild } from '../support/child-process.js'
import { type HandedOut, unopened } from '../support/child-traffic.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { dialects } from '../support/databases.js'
import { withStore } from '../support/fresh-store.js'
import { startRootService } from '../support/root-service.js'
import { rowsOf } from '../support/rows.js'
import { slow } from '../support/slow.js'

const TENANTS = slow ? 200 : 20
const PROCESSES = 4
/** How long cached keys are used in the processes. */
const TTL_MS = 2000
/** A process that has to share two processors gets its turn late. */
const MARGIN_MS = 5000
/** How long a tenant's calls are counted in each state of its root. */
const COUNTED_MS = slow ? 5000 : 2000

const DENIES = { tenant: 't3', state: 'denies', error: 'ERR_MASTER_KEY denied false' } as const
const HANGS = { tenant: 't7', state: 'hangs', error: 'ERR_MASTER_KEY unavailable true' } as const
/** What is wrong at the same time. */
const OUTAGES = slow ? [[DENIES], [HANGS]] : [[DENIES, HANGS]]

interface Report {
  readonly calls: number
  readonly failed: Readonly<Record<string, Readonly<Record<string, number>>>>
  readonly slowestMs: number
}

describe.each(dialects)('%s: tenants with roots of their own', (dialect) => {
  const cleanups = cleanUpAfterEach()

  it(
    `${TENANTS} of them in ${PROCESSES} processes: a root that denies, hangs and comes back fails its own users alone`,
    async () => {
      const url = await cleanups.database(dialect)
      const roots = await startRootService()
      cleanups.add(() => roots.close())
      const masterKey = generateMasterKey()
      const processes = Array.from({ length: PROCESSES }, (_, index) =>
        startChild('tenant-traffic.mjs', [url, roots.url, String(TENANTS), String(index), String(TTL_MS)], {
          API_KEY_MASTER_KEY: masterKey,
        }),
      )
      for (const child of processes) cleanups.add(child.kill)
      for (const child of processes) expect(await child.line()).toBe('ready')

      await sleep(COUNTED_MS)
      const quiet = await reportsOf(processes)
      expect(quiet.map(({ failed }) => failed)).toEqual(processes.map(() => ({})))

      const told: string[] = []
      for (const outages of OUTAGES) {
        for (const { tenant, state } of outages) roots.set(tenant, state)
        await sleep(TTL_MS + MARGIN_MS)
        const beginning = await reportsOf(processes)
        await sleep(COUNTED_MS)
        const failing = await reportsOf(processes)
        for (const { tenant } of outages) roots.set(tenant, 'works')
        await sleep(MARGIN_MS)
        const recovering = await reportsOf(processes)
        await sleep(COUNTED_MS)
        const recovered = await reportsOf(processes)
        told.push(`${outages.map(({ state }) => `one root ${state}`).join(', ')}: ${said(failing)}`)

        const affected: readonly string[] = outages.map(({ tenant }) => tenant)
        for (const { failed } of [...beginning, ...failing, ...recovering])
          expect(Object.keys(failed).filter((one) => !affected.includes(one))).toEqual([])
        for (const { tenant, error } of outages)
          for (const { failed } of failing) expect(Object.keys(failed[tenant] ?? {})).toEqual([error])
        expect(recovered.map(({ failed }) => failed)).toEqual(processes.map(() => ({})))
      }
      console.info(
        `${dialect}: ${TENANTS} tenants, ${PROCESSES} processes; calls ${said(quiet)}; ${told.join('; ')}`,
      )

      const tokens: HandedOut[] = []
      for (const lines of await Promise.all(processes.map(endOf))) tokens.push(...lines)
      expect(await unopened(url, tenantKeyring(masterKey, roots.url), tokens)).toEqual([])
      for (const { userId, kekId } of await withStore(url, rowsOf)) {
        const tenant = userId.startsWith('\u0001tenant:') ? null : userId.slice(0, userId.indexOf('/'))
        expect(kekId).toBe(tenant === null ? `root:${userId.slice(8)}` : `tenant:1:${tenant}`)
      }
    },
    slow ? 600_000 : 180_000,
  )
})

async function reportsOf(processes: readonly ChildScript[]): Promise<Report[]> {
  for (const child of processes) child.send('report')
  return Promise.all(processes.map(async (child) => JSON.parse(await child.line()) as Report))
}

async function endOf(child: ChildScript): Promise<HandedOut[]> {
  const [lines, end] = await Promise.all([child.rest(), child.ended()])
  expect(end).toEqual({ code: 0, stderr: '' })
  return lines.map((line) => JSON.parse(line) as HandedOut)
}

/** The calls of others' users, and the slowest of them. */
function said(reports: readonly Report[]): string {
  const calls = reports.reduce((sum, report) => sum + report.calls, 0)
  return `${calls}, slowest of others ${Math.max(...reports.map(({ slowestMs }) => slowestMs))} ms`
}
