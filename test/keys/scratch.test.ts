import { randomBytes } from 'node:crypto'
import { expect, it } from 'vitest'
import { localMasterKey, masterKeyring } from '../../src/index.js'
import { backends, freshStore } from '../support/fresh-store.js'
import { rowsOf } from '../support/rows.js'
import { countedMasterKey } from '../support/store-doubles.js'

it.each(backends)('basic on %s', async (backend) => {
  const root = countedMasterKey(randomBytes(32))
  const t = await freshStore(backend, {
    masterKeys: masterKeyring({ primary: root, tenantOf: (u) => u.split('/')[0] as string }),
  })
  const a = await t.open()
  const users = Array.from({ length: 200 }, (_, i) => `t${i % 10}/u${i}`)
  const before = { ...root }
  const tokens = await Promise.all(users.map((u) => a.encrypt(u, 'x')))
  console.log('mint', root.wraps - before.wraps, root.unwraps - before.unwraps)
  const b = await t.open()
  const mid = { ...root }
  for (const [i, u] of users.entries()) expect(await b.decrypt(u, tokens[i] as string)).toBe('x')
  console.log('cold', root.wraps - mid.wraps, root.unwraps - mid.unwraps)
  console.log((await rowsOf(t.store)).slice(8, 12).map((r) => [r.userId, r.kekId]))
  await a.shredTenant('t1')
  await expect(a.encrypt('t1/u1', 'x')).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
  await expect(a.encrypt('t1/new', 'x')).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
  await expect(a.decrypt('t1/u1', tokens[1] as string)).rejects.toMatchObject({ code: 'ERR_KEY_SHREDDED' })
  console.log(await a.rotateTenantKey('t2'))
  await a.encrypt('t2/new', 'x')
  console.log((await t.store.getAll(['t2/new'])).get('t2/new')?.[0]?.kekId)
  const r2 = localMasterKey(randomBytes(32))
  console.log(await a.moveTenant('t2', r2))
  await expect(a.encrypt('t2/new', 'x')).rejects.toMatchObject({ code: 'ERR_UNKNOWN_MASTER_KEY' })
  const handle = await a.user('t3/u3')
  handle.encrypt('x')
  const n = root.unwraps
  await a.evictTenant('t3')
  expect(root.unwraps).toBe(n)
  expect(() => handle.encrypt('x')).toThrow(/Get a new one/)
  await a.encrypt('t3/u3', 'y')
  expect(root.unwraps).toBe(n + 1)
  await t.remove()
})
