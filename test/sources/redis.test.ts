/** examples/redis-source.ts, an example of a source of one's own, with a real Redis. */
import { randomBytes } from 'node:crypto'
import { createClient, createCluster, RESP_TYPES } from 'redis'
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest'
import { type RedisField, redisSource } from '../../examples/redis-source.js'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { EnvelopeCrypto, isToken, localMasterKey, type Progress } from '../../src/index.js'
import {
  type ReencryptOptions,
  reencrypt,
  type ValueChange,
  type ValueSource,
} from '../../src/reencrypt/index.js'
import { describeIf } from '../support/conditional.js'
import { errorOf } from '../support/errors.js'
import { everythingOf } from '../support/leaks.js'
import { hasRedis, type RedisServer, startRedis } from '../support/redis-server.js'
import { ACCEPT_V2, v2PoolToken, v2Token } from '../support/tokens.js'

const describeRedis = describeIf(hasRedis, 'redis-server is not installed')

const USERS = {
  match: 'user:*:secrets',
  owner: (hash: string) => hash.slice('user:'.length, -':secrets'.length),
}
const POOL = { match: 'pool:secrets', owner: () => null, pool: true }
const contextOf = ({ field }: Pick<RedisField, 'field'>) => ({ column: 'secrets', name: field })
const hashOf = (userId: string) => `user:${userId}:secrets`

describeRedis('redisSource', () => {
  const masterKey = randomBytes(32)
  const open = () =>
    EnvelopeCrypto.open({
      store: memoryKeyStore(),
      masterKeys: localMasterKey(masterKey),
      accept: ACCEPT_V2,
    })
  let server: RedisServer
  let client: ReturnType<typeof createClient>
  let envelope: EnvelopeCrypto
  beforeAll(async () => {
    server = await startRedis()
    client = createClient({ url: server.url })
    await client.connect()
  })
  afterAll(async () => {
    client?.destroy()
    await server?.stop()
  })
  beforeEach(async () => {
    await client.flushAll()
    envelope = await open()
  })
  afterEach(() => envelope.close())

  const sweep = (options: Partial<ReencryptOptions<RedisField>> = {}) =>
    reencrypt<RedisField>({
      envelope,
      source: redisSource(client, USERS),
      context: contextOf,
      plaintext: true,
      batchSize: 20,
      ...options,
    })

  /** The source of the users' hashes. @param before what happens before it replaces values: another writer's work */
  const changing = (before: (changes: readonly ValueChange[]) => unknown): ValueSource<RedisField> => {
    const source = redisSource(client, USERS)
    return {
      ...source,
      async replace(changes) {
        await before(changes)
        return source.replace(changes)
      },
    }
  }

  /** Fills users' hashes with plaintexts. @returns the users' ids */
  async function fill(users: number, fields: number): Promise<string[]> {
    const ids = Array.from({ length: users }, (_, index) => `user-${index}`)
    await Promise.all(ids.map((id) => client.hSet(hashOf(id), plaintexts(id, fields))))
    return ids
  }
  const plaintexts = (id: string, fields: number) =>
    Object.fromEntries(Array.from({ length: fields }, (_, n) => [`key ${n}`, `${n} of ${id}`]))
  /** The values of a user's hash, decrypted if they are tokens. */
  async function opened(id: string): Promise<Record<string, string>> {
    const entries = Object.entries(await client.hGetAll(hashOf(id))).map(async ([field, value]) => [
      field,
      isToken(value) ? await envelope.decrypt(id, value, contextOf({ field })) : value,
    ])
    return Object.fromEntries(await Promise.all(entries))
  }
  /** All hashes, as bytes in hex, with their TTLs. */
  async function snapshot(): Promise<unknown[]> {
    const bytes = client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer })
    const stored = (await bytes.keys('*')).map(async (name) => {
      const fields = Object.entries(await bytes.hGetAll(name)).map(([field, value]) => [
        field,
        value.toString('hex'),
      ])
      return [name.toString('hex'), fields.sort(), await client.pExpireTime(name)]
    })
    return (await Promise.all(stored)).sort()
  }
  const callsOf = async (command: string) =>
    Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(await client.info('commandstats'))?.[1] ?? 0)

  it('brings the values of all users to v3, and changes nothing else', async () => {
    const ids = Array.from({ length: 60 }, (_, index) => (index === 7 ? 'a:secrets:ä*' : `user-${index}`))
    const expected: Record<string, string> = {
      plain: 'sk-ä \0 \ufffd "',
      v2: 'of v2',
      old: 'of version 1',
      moved: 'of another context',
      done: 'done',
    }
    for (const id of ids) {
      const old = await envelope.encrypt(id, 'of version 1', contextOf({ field: 'old' }))
      const v2 = await v2Token(envelope, id, 'of v2')
      await envelope.rotateUserKey(id)
      const moved = await envelope.encrypt(id, 'of another context', { column: 'secrets' })
      const done = await envelope.encrypt(id, 'done', contextOf({ field: 'done' }))
      await client.hSet(hashOf(id), { plain: expected.plain ?? '', v2, old, moved, done })
    }
    await client.set('user:string:secrets', 'no hash')
    await client.hSet('user:alice:settings', { theme: 'dark' })
    const done = await client.hGet(hashOf('user-1'), 'done')

    const report = await sweep({ previousContexts: [{ column: 'secrets' }] })
    expect(report).toMatchObject({
      complete: true,
      changed: 240,
      skipped: 0,
      before: { plaintext: 60, v2: 60, oldVersion: 60, oldContext: 60, current: 60 },
      after: { current: 300 },
      failed: [],
      left: 0,
    })
    for (const id of ids) {
      expect(await opened(id)).toEqual(expected)
      const stored = Object.values(await client.hGetAll(hashOf(id)))
      expect(stored.every((value) => value.startsWith('v3:'))).toBe(true)
    }
    expect(await client.hGet(hashOf('user-1'), 'done')).toBe(done)
    expect(await client.get('user:string:secrets')).toBe('no hash')
    expect(await client.hGetAll('user:alice:settings')).toEqual({ theme: 'dark' })
    expect(await sweep()).toMatchObject({ complete: true, changed: 0, left: 0 })
  })

  it('brings the values of the shared pool to v3, under the pool’s key', async () => {
    await client.hSet('pool:secrets', {
      plain: 'one',
      v2: v2PoolToken(masterKey, 'two'),
      done: await envelope.pool.encrypt('three', contextOf({ field: 'done' })),
    })
    expect(await sweep({ source: redisSource(client, POOL) })).toMatchObject({
      complete: true,
      before: { plaintext: 1, v2: 1, current: 1 },
      after: { current: 3 },
      left: 0,
    })
    const expected = { plain: 'one', v2: 'two', done: 'three' }
    for (const [field, token] of Object.entries(await client.hGetAll('pool:secrets')))
      expect([field, await envelope.pool.decrypt(token, contextOf({ field }))]).toEqual([
        field,
        expected[field as keyof typeof expected],
      ])
  })

  it('lets other writers win, makes no removed value again, and keeps TTLs', async () => {
    const [written, removed, without] = (await fill(10, 5)) as [string, string, string]
    const expiry = Math.floor(Date.now() / 1000) + 3600
    await client.expireAt(hashOf('user-9'), expiry)
    let writes = 0
    const source = changing(async (changes) => {
      const isInHand = (id: string, field: string) =>
        changes.some(({ key, column }) => key === hashOf(id) && column === field)
      if (isInHand(written, 'key 0') && writes < 3)
        await client.hSet(hashOf(written), 'key 0', `write ${++writes}`)
      if (isInHand(without, 'key 1')) await client.hDel(hashOf(without), 'key 1')
      if (isInHand(removed, 'key 2')) await client.del(hashOf(removed))
    })
    const report = await sweep({ source })
    expect(report).toMatchObject({ complete: true, failed: [], left: 0 })
    expect(writes).toBe(3)
    // At least three writes, one removal of a field and one removal of a hash.
    expect(report.skipped).toBeGreaterThanOrEqual(5)
    expect(await opened(written)).toEqual({ ...plaintexts(written, 5), 'key 0': 'write 3' })
    expect(await client.hGet(hashOf(written), 'key 0')).toMatch(/^v3:/)
    expect(await client.exists(hashOf(removed))).toBe(0)
    const { 'key 1': _, ...others } = plaintexts(without, 5)
    expect(await opened(without)).toEqual(others)
    expect(await opened('user-9')).toEqual(plaintexts('user-9', 5))
    expect(await client.expireTime(hashOf('user-9'))).toBe(expiry)
  })

  it('goes on after an abort, and after a failure in the middle of a page', async () => {
    const ids = await fill(10, 7)
    const tokens = async () =>
      (await Promise.all(ids.map((id) => client.hVals(hashOf(id))))).flat().filter((value) => isToken(value))
    const controller = new AbortController()
    const onProgress = ({ done }: Progress) => done > 0 && controller.abort()
    expect(await sweep({ signal: controller.signal, onProgress })).toMatchObject({
      complete: false,
      changed: 20,
    })
    expect(await tokens()).toHaveLength(20)
    const failing: ValueSource<RedisField> = {
      ...redisSource(client, USERS),
      async replace(changes) {
        await redisSource(client, USERS).replace(changes.slice(0, 3))
        throw new Error('the connection was lost')
      },
    }
    expect((await errorOf(sweep({ source: failing }))).message).toBe('the connection was lost')
    const done = await tokens()
    expect(done.length).toBeGreaterThan(20)
    expect(await sweep()).toMatchObject({
      complete: true,
      changed: 70 - done.length,
      before: { current: done.length },
      left: 0,
    })
    expect(await tokens()).toEqual(expect.arrayContaining(done))
    for (const id of ids) expect(await opened(id)).toEqual(plaintexts(id, 7))
  })

  it('writes nothing in a dry run', async () => {
    await fill(10, 5)
    const before = await snapshot()
    const scripts = await callsOf('eval')
    expect(await sweep({ dryRun: true })).toMatchObject({ changed: 50, after: { current: 50 } })
    expect(await snapshot()).toEqual(before)
    expect(await callsOf('eval')).toBe(scripts)
  })

  it('gives small and large hashes in pages of at most the limit, and reads Redis page by page', async () => {
    await fill(30, 4)
    const long = 'x'.repeat(100)
    const large = Array.from({ length: 3000 }, (_, index) => [`field ${index}`, `${long} ${index}`])
    await client.hSet(hashOf('large'), Object.fromEntries(large))
    const hscans = await callsOf('hscan')
    const seen = new Set<string>()
    for await (const page of redisSource(client, USERS).pages({ limit: 50 })) {
      expect(page.length).toBeLessThanOrEqual(50)
      if (seen.size === 0) expect((await callsOf('hscan')) - hscans).toBeLessThanOrEqual(15)
      for (const { key, column } of page) seen.add(`${key} ${column}`)
    }
    expect(seen.size).toBe(3120)
    expect((await callsOf('hscan')) - hscans).toBeGreaterThan(30 + 3000 / 100)
  })

  it('sweeps correctly though SCAN gives some values twice', async () => {
    const ids = await fill(10, 5)
    const source = redisSource(client, USERS)
    const twice: ValueSource<RedisField> = {
      ...source,
      async *pages(options) {
        for await (const page of source.pages(options)) {
          yield [...page, ...page]
          yield page
        }
      },
    }
    expect(await sweep({ source: twice })).toMatchObject({ complete: true, failed: [], left: 0 })
    for (const id of ids) expect(await opened(id)).toEqual(plaintexts(id, 5))
  })

  it('reports bytes that are no text, and leaves them unchanged', async () => {
    const bytes = Buffer.from('ff00fe', 'hex')
    await client.hSet(hashOf('alice'), { good: 'sk', bad: bytes })
    await client.hSet(hashOf('bob'), bytes, 'in a field of no name')
    await client.hSet(Buffer.concat([Buffer.from('user:'), bytes, Buffer.from(':secrets')]), { a: 'b' })
    const before = await snapshot()
    const report = await sweep()
    expect(report).toMatchObject({
      complete: true,
      changed: 1,
      after: { current: 1, unopenable: 3 },
      left: 3,
    })
    expect(report.failed).toHaveLength(3)
    expect(report.failed).toContainEqual({
      key: hashOf('alice'),
      column: 'bad',
      owner: 'alice',
      code: 'ERR_INVALID_ARGUMENT',
      reason: expect.stringContaining('must be text'),
    })
    await client.hSet(hashOf('alice'), 'good', 'sk')
    expect(await snapshot()).toEqual(before)
  })

  it('ends with an error that shows no value if a hash gets another type meanwhile', async () => {
    await client.hSet(hashOf('alice'), { key: 'sk-planted' })
    const source = changing(() => client.set(hashOf('alice'), 'no hash'))
    const error = await errorOf(sweep({ source }))
    expect(error.message).toContain('WRONGTYPE')
    expect(everythingOf(error)).not.toMatch(/sk-planted|v3:/)
    expect(await client.get(hashOf('alice'))).toBe('no hash')
  })

  it('sweeps a cluster, one master after the other', async () => {
    const cluster = ['--cluster-enabled', 'yes', '--cluster-node-timeout', '2000']
    const servers = [await startRedis(...cluster), await startRedis(...cluster)] as const
    const admins = servers.map(({ url }) => createClient({ url }))
    const nodes = createCluster({ rootNodes: servers.map(({ url }) => ({ url })) })
    try {
      await Promise.all(admins.map((admin) => admin.connect()))
      const [first, second] = admins as [typeof client, typeof client]
      await first.clusterAddSlotsRange({ start: 0, end: 8191 })
      await second.clusterAddSlotsRange({ start: 8192, end: 16_383 })
      await first.clusterMeet('127.0.0.1', servers[1].port)
      for (const admin of admins)
        await expect
          .poll(async () => String(await admin.clusterInfo()), { timeout: 20_000, interval: 50 })
          .toMatch(/cluster_state:ok[\s\S]*cluster_slots_ok:16384/)
      await nodes.connect()
      const ids = Array.from({ length: 40 }, (_, index) => `user-${index}`)
      await Promise.all(ids.map((id) => nodes.hSet(hashOf(id), { key: `of ${id}` })))
      const changed: number[] = []
      for (const master of nodes.masters) {
        const source = redisSource(await nodes.nodeClient(master), USERS)
        changed.push((await sweep({ source })).changed)
      }
      expect(changed).toHaveLength(2)
      expect(changed).not.toContain(0)
      expect(changed.reduce((sum, count) => sum + count)).toBe(40)
      for (const id of ids) {
        const token = (await nodes.hGet(hashOf(id), 'key')) ?? ''
        expect(await envelope.decrypt(id, token, contextOf({ field: 'key' }))).toBe(`of ${id}`)
      }
    } finally {
      if (nodes.isOpen) nodes.destroy()
      for (const admin of admins) if (admin.isOpen) admin.destroy()
      for (const { stop } of servers) await stop()
    }
  })
})
