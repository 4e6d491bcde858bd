/** The options of the stores' factories: in the first argument or in the second. */
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { postgresKeyStore } from '../../src/adapters/postgres/store.js'
import { sqliteKeyStore } from '../../src/adapters/sqlite/store.js'
import { freshDatabase, isChosen, temporaryFolder } from '../support/databases.js'

const missing = { code: 'ERR_SCHEMA' }

describe.runIf(isChosen('sqlite'))('sqliteKeyStore', () => {
  it('takes options beside the path or as a second argument, which wins', async () => {
    const folder = temporaryFolder()
    const path = join(folder.path, 'keystore.db')
    await expect(sqliteKeyStore({ path, migrate: 'check' }).ready()).rejects.toMatchObject(missing)
    // @ts-expect-error not a mode
    expect(() => sqliteKeyStore({ path, migrate: 'never' })).toThrow(
      "migrate must be 'auto', 'check' or 'off'",
    )
    await expect(sqliteKeyStore({ path }, { migrate: 'check' }).ready()).rejects.toMatchObject(missing)
    const store = sqliteKeyStore({ path, migrate: 'check' }, { migrate: 'auto' })
    expect((await store.ready()).applied).toHaveLength(5)
    await store.close()
    folder.remove()
  })
})

describe.runIf(isChosen('postgres'))('postgresKeyStore', () => {
  it('takes options beside the url or as a second argument', async () => {
    const database = await freshDatabase('postgres')
    const { url } = database
    const apart = postgresKeyStore({ url, schema: 'apart' })
    expect((await apart.ready()).applied).toHaveLength(5)
    // @ts-expect-error not a mode
    expect(() => postgresKeyStore({ url, migrate: 'never' })).toThrow(
      "migrate must be 'auto', 'check' or 'off'",
    )
    const checked = postgresKeyStore({ url }, { schema: 'apart', migrate: 'check' })
    expect((await checked.ready()).applied).toEqual([])
    const plain = postgresKeyStore({ url, migrate: 'check' })
    await expect(plain.ready()).rejects.toMatchObject(missing)
    for (const store of [apart, checked, plain]) await store.close()
    await database.remove()
  })
})
