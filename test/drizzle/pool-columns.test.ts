/** Columns of the pool beside columns of users: whose key each value is under, and in which scopes. */
import { eq } from 'drizzle-orm'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { defineEncrypted, drizzleSource, reencrypt } from '../../src/reencrypt/index.js'
import { dialects } from '../support/databases.js'
import { columnErrorOf } from '../support/errors.js'
import { type HostApp, hostApp } from '../support/host-app.js'

describe.each(dialects)('columns of the pool on %s', (dialect) => {
  let app: HostApp
  beforeEach(async () => {
    app = await hostApp(dialect)
  })
  afterEach(() => app.close())

  // No UTF-8, as keys and images are.
  const bytes = Uint8Array.from([0, 255, 254, 128, 0])
  const sharedFile = Uint8Array.from([192, 193, 10])

  it('have the pool’s key beside the user’s, in scopes that are nested either way', async () => {
    const { db, schema, envelope } = app
    const { vault } = schema
    const row = (id: number) => ({
      id,
      ownerId: 'alice',
      apiKey: `sk-${id}`,
      file: bytes,
      shared: `shared ${id}`,
      sharedFile,
    })
    const insert = (id: number) => db.insert(vault).values(row(id)).returning()
    const [first] = await envelope.scope('alice', () => envelope.pool.scope(() => insert(1)))
    const [second] = await envelope.pool.scope(() => envelope.scope('alice', () => insert(2)))
    for (const [read, id] of [
      [first, 1],
      [second, 2],
    ] as const) {
      expect(read).toMatchObject({ apiKey: `sk-${id}`, shared: `shared ${id}` })
      expect([read?.file, read?.sharedFile].map((file) => [...(file ?? [])])).toEqual([
        [...bytes],
        [...sharedFile],
      ])
    }
    const [stored] = await app.rows('select * from vault where id = 1')
    const token = (column: string) => String(stored?.[column])
    expect(await envelope.pool.decrypt(token('shared'), { column: 'vault.shared' })).toBe('shared 1')
    expect(await envelope.decrypt('alice', token('api_key'), { column: 'vault.api_key' })).toBe('sk-1')
    expect(await envelope.pool.decryptBytes(token('shared_file'), { column: 'vault.shared_file' })).toEqual(
      Buffer.from(sharedFile),
    )
    // An inner scope of another user changes nothing for the pool's columns.
    const [inner] = await envelope.pool.scope(() =>
      envelope.scope('alice', () =>
        envelope.scope('bob', () => db.select({ shared: vault.shared }).from(vault).where(eq(vault.id, 2))),
      ),
    )
    expect(inner).toEqual({ shared: 'shared 2' })
  })

  it('refuse the scope of the other kind alone, and say what to write', async () => {
    const { db, schema, envelope } = app
    const { vault } = schema
    const noScope = async (query: () => PromiseLike<unknown>) => {
      const error = await columnErrorOf(query)
      expect(error).toMatchObject({ code: 'ERR_NO_SCOPE' })
      return error.message
    }
    const shared = () => db.insert(vault).values({ id: 1, ownerId: 'alice', shared: 'x' })
    const ofAlice = () => db.insert(vault).values({ id: 1, ownerId: 'alice', apiKey: 'x' })
    for (const scope of [
      (query: () => PromiseLike<unknown>) => query(),
      (query: () => PromiseLike<unknown>) => envelope.scope('alice', query),
    ])
      expect(await noScope(() => scope(shared) as PromiseLike<unknown>)).toMatch(
        /"vault\.shared".*`await envelope\.pool\.scope\(\(\) => …\)`/,
      )
    const message = await noScope(() => envelope.pool.scope(ofAlice))
    expect(message).toMatch(/"vault\.api_key".*`await envelope\.scope\(userId, \(\) => …\)`.*owner: 'pool'/)
    await envelope.pool.scope(shared)
    expect(await noScope(() => db.select({ shared: vault.shared }).from(vault))).toContain('"vault.shared"')
  })

  it('stay readable when a user is shredded, and follow rotations of the pool', async () => {
    const { db, schema, envelope } = app
    const { vault } = schema
    const both = <T>(work: () => PromiseLike<T>) => envelope.pool.scope(() => envelope.scope('alice', work))
    await both(() => db.insert(vault).values({ id: 1, ownerId: 'alice', apiKey: 'sk', shared: 'one' }))
    expect(await envelope.pool.rotate()).toMatchObject({ userId: '', version: 2, rotated: true })
    await both(() => db.insert(vault).values({ id: 2, ownerId: 'alice', apiKey: 'sk', shared: 'two' }))
    await envelope.shredUser('alice')
    const rows = await envelope.pool.scope(() =>
      db.select({ shared: vault.shared }).from(vault).orderBy(vault.id),
    )
    expect(rows).toEqual([{ shared: 'one' }, { shared: 'two' }])
    await envelope.pool.shred()
    await expect(envelope.pool.scope(() => null)).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
  })

  it('are swept under the pool’s key, each kind of column in a source of its own', async () => {
    const { db, schema, envelope } = app
    const { vault } = schema
    await app.rows(
      "insert into vault (id, owner_id, api_key, shared) values (1, 'alice', 'sk-plain', 'shared-plain')",
    )
    const sources = defineEncrypted({ vault }).sources(db)
    expect([...sources.keys()]).toEqual(['vault', 'vault (pool)'])
    for (const source of sources.values())
      expect(await reencrypt({ envelope, source, plaintext: true })).toMatchObject({ changed: 1, left: 0 })
    const [row] = await envelope.pool.scope(() => envelope.scope('alice', () => db.select().from(vault)))
    expect(row).toMatchObject({ apiKey: 'sk-plain', shared: 'shared-plain' })
    const together = { key: 'id', owner: 'ownerId', columns: ['apiKey', 'shared'] } as const
    expect(() => drizzleSource(db, vault, together)).toThrow(/"shared".*owner: null/)
  })

  it('columns of bytes refuse what is no bytes', async () => {
    const { db, schema, envelope } = app
    for (const file of ['text', [1, 2], {}])
      expect(
        await columnErrorOf(() =>
          envelope.scope('alice', () =>
            db.insert(schema.vault).values({ id: 1, ownerId: 'alice', file: file as never }),
          ),
        ),
      ).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
  })
})
