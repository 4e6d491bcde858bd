/** Keys of types whose operators are not Postgres's own, and of types made from others: each row is given once, in the index's order. */
import { beforeEach, describe, expect, it } from 'vitest'
import { sqlSource } from '../../src/sources/sql.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { asAdmin, isChosen, queryPostgres } from '../support/databases.js'

describe.runIf(isChosen('postgres'))('the sweep of a Postgres table', () => {
  const cleanups = cleanUpAfterEach()
  let url: string
  beforeEach(async () => {
    url = await cleanups.database('postgres')
    await asAdmin(
      url,
      'create schema ext',
      'create extension citext schema ext',
      "create domain ext.name as ext.citext check (value <> '')",
      'create domain ext.surname as ext.name',
      "create type ext.size as enum ('small', 'large', 'huge')",
    )
  })

  it.each([
    ['of an extension, whose order is another than that of text', 'ext.citext', ['a', 'B', 'c', 'D']],
    ['a domain of such a type', 'ext.surname', ['a', 'B', 'c', 'D']],
    ['an enum', 'ext.size', ['small', 'large', 'huge']],
    ['an array', 'integer[]', ['{1}', '{1,2}', '{2}']],
  ])('whose key is %s', async (_, type, keys) => {
    for (const [table, definition] of [
      ['alone', `id ${type} primary key`],
      ['beside', `id ${type}, n integer default 1, primary key (id, n)`],
      ['behind', `id ${type}, n integer default 1, primary key (n, id)`],
    ] as const) {
      await asAdmin(
        url,
        `create table ${table} (${definition}, owner text, value text)`,
        ...keys.map((key) => `insert into ${table} (id, owner, value) values ('${key}', 'alice', 'old')`),
      )
      const key = { alone: ['id'], beside: ['id', 'n'], behind: ['n', 'id'] }[table]
      const source = cleanups.closing(await sqlSource(url, { table, key, owner: 'owner', column: 'value' }))
      const found = []
      for await (const page of source.pages({ limit: 1 })) found.push(...page)
      const ids = found.map(({ key: parts }) =>
        Array.isArray(parts) ? parts.find((part) => typeof part === 'string') : parts,
      )
      expect([table, ids]).toEqual([table, keys])
      const changes = found.map(({ key }) => ({
        key,
        column: 'value',
        owner: 'alice',
        from: 'old',
        to: 'new',
      }))
      expect(await source.replace(changes)).toHaveLength(keys.length)
      expect(await queryPostgres(url, `select 1 from ${table} where value = 'old'`)).toEqual([])
    }
  })
})
