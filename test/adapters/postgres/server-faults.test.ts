/** Four processes at work while the server is killed or frozen, or their connections are cut: no token is lost, and all recover. */
import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, afterEach, beforeAll, beforeEach, describe, it } from 'vitest'
import { generateMasterKey } from '../../../src/index.js'
import { seed, TIMEOUT_MS } from '../../support/child-kills.js'
import { expectConsistent, type Load, startLoad } from '../../support/child-load.js'
import { isChosen, queryPostgres } from '../../support/databases.js'
import { postgresProxy } from '../../support/postgres-proxy.js'
import { type PostgresServer, startPostgres } from '../../support/postgres-server.js'
import { slow } from '../../support/slow.js'

const KILLS = slow ? 10 : 2
const FREEZES = slow ? 10 : 2
const CUTS = slow ? 200 : 10
const PROCESSES = 4
/** Longer than a slow machine needs for a call, shorter than an outage of the test. */
const deadlineMs = 2000
/** Tokens between two faults, at most. */
const TOKENS = 20
/** So many tokens show that a process works again. */
const RECOVERED = 10

/** Random numbers of tokens after which a fault comes; the seed repeats them. */
const moments = (count: number) => fc.sample(fc.integer({ min: 1, max: TOKENS }), { numRuns: count, seed })

describe.runIf(isChosen('postgres'))('postgres, under the load of four processes', () => {
  const masterKey = generateMasterKey()
  let server: PostgresServer
  let url: string
  let loads: Load[]

  // A server of this file's own: no other test uses it while it is down.
  beforeAll(async () => {
    server = await startPostgres()
  })
  afterAll(() => server.remove())
  beforeEach(async () => {
    const name = `faults_${randomBytes(6).toString('hex')}`
    await queryPostgres(server.url, `create database ${name}`)
    url = server.url.replace(/\/postgres$/, `/${name}`)
    loads = []
  })
  afterEach(async () => {
    for (const load of loads) await load.kill()
  })

  const start = async (databaseUrl: string) => {
    for (let i = 0; i < PROCESSES; i += 1)
      loads.push(await startLoad({ url: databaseUrl, masterKey, name: String(i), deadlineMs }))
  }
  const each = (work: (load: Load) => Promise<void>) => Promise.all(loads.map(work))
  const stop = async () => {
    await each((load) => load.moreTokens(RECOVERED))
    await each((load) => load.stop())
    return expectConsistent(loads, { url, masterKey, deadlineMs })
  }

  it(
    `the server is killed ${KILLS} times`,
    async ({ annotate }) => {
      await annotate(`KILL_SEED=${seed}`)
      await start(url)
      for (const [index, tokens] of moments(KILLS).entries()) {
        await each((load) => load.moreTokens(tokens))
        const isLong = index % 2 === 0
        await server.kill()
        try {
          // In a short outage calls are repeated until they succeed; in a long one they end at their deadline.
          if (isLong) await each((load) => load.moreFailures(1))
        } finally {
          await server.start()
        }
        await each((load) => load.moreTokens(RECOVERED))
      }
      await annotate(`${KILLS} kills: ${await stop()}`)
    },
    TIMEOUT_MS,
  )

  it(
    `the server is frozen ${FREEZES} times`,
    async ({ annotate }) => {
      await annotate(`KILL_SEED=${seed}`)
      await start(url)
      for (const tokens of moments(FREEZES)) {
        await each((load) => load.moreTokens(tokens))
        await server.freeze()
        try {
          await each((load) => load.moreFailures(1))
        } finally {
          server.thaw()
        }
        await each((load) => load.moreTokens(RECOVERED))
      }
      await annotate(`${FREEZES} freezes: ${await stop()}`)
    },
    TIMEOUT_MS,
  )

  it(
    `${CUTS} of their connections are cut`,
    async ({ annotate }) => {
      await annotate(`KILL_SEED=${seed}`)
      const proxy = await postgresProxy(url)
      try {
        await start(proxy.url)
        let cut = 0
        for (const [index, tokens] of moments(CUTS * 10).entries()) {
          await loads[index % PROCESSES]?.moreTokens(tokens)
          if (proxy.cutOne(tokens / (TOKENS + 1))) cut += 1
          if (cut === CUTS) break
        }
        await annotate(`${cut} cuts, ${proxy.connections} connections: ${await stop()}`)
      } finally {
        await proxy.close()
      }
    },
    TIMEOUT_MS,
  )
})
