/** What a process knows of users' keys longer than the cache keeps them. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, it } from 'vitest'
import { localMasterKey } from '../../src/index.js'
import { DataKey } from '../../src/keys/data-key.js'
import type { UserRows } from '../../src/keys/known-user.js'
import { KeyMemory } from '../../src/keys/memory.js'
import { mintedRow } from '../support/rows.js'

setFlagsFromString('--expose-gc')
const collectGarbage: () => void = runInNewContext('gc')

const inner = localMasterKey(randomBytes(32))

/** Reads a user with one key, and caches the key. */
async function cached(memory: KeyMemory) {
  const row = await mintedRow(inner, 'alice')
  const read = memory.beginRead('alice')
  const key = new DataKey(row, randomBytes(32))
  memory.cache(key, memory.endRead(read, [row]) as UserRows)
  return { row, read, key }
}

describe('the memory of keys', () => {
  it('ends a lease for good, though more users are erased than it remembers', async () => {
    const memory = new KeyMemory({}, false)
    const row = await mintedRow(inner, 'alice')
    const [alice, bob] = [memory.beginRead('alice'), memory.beginRead('bob')]
    const lease = memory.lease(alice.user, [row])
    const other = memory.lease(bob.user, [await mintedRow(inner, 'bob')])
    memory.erase('alice', false)
    for (let i = 0; i < 120_001; i++) memory.beginRead(`other-${i}`)
    expect(lease.ended).toBe(true)
    expect(other.ended).toBe(false)
    expect(memory.endRead(alice, [row])).toBeNull()
    memory.erase('bob', false)
    expect(other.ended).toBe(true)
    expect(memory.lease(memory.beginRead('alice').user, [row]).ended).toBe(false)
  })

  it('ends a lease whose user was evicted, once the user is read as shredded', async () => {
    const memory = new KeyMemory({ maxEntries: 1 }, false)
    const row = await mintedRow(inner, 'alice')
    const read = memory.beginRead('alice')
    memory.endRead(read, [row])
    const lease = memory.lease(read.user, [row])
    for (let i = 0; i < 100_002; i++) memory.beginRead(`other-${i}`)
    const tombstone = { ...row, encryptedKey: new Uint8Array(0), shreddedAt: new Date() }
    memory.endRead(memory.beginRead('alice'), [tombstone])
    expect(lease.ended).toBe(true)
  })

  it('drops the cached keys of a user whom it forgets, though they are in use: an erasure would not find them', async () => {
    const memory = new KeyMemory({}, false)
    const { row, read, key } = await cached(memory)
    for (let i = 0; i < 110_001; i++) {
      memory.beginRead(`other-${i}`)
      memory.cached(key)
    }
    expect(read.user.ended).toBe(true)
    expect(memory.peek(row)).toBeUndefined()
  })

  it('caches nothing after it was closed', async () => {
    const memory = new KeyMemory({}, false)
    const row = await mintedRow(inner, 'alice')
    memory.close()
    const rows = memory.endRead(memory.beginRead('alice'), [row])
    memory.cache(new DataKey(row, randomBytes(32)), rows as UserRows)
    expect(memory.peek(row)).toBeUndefined()
  })

  it('takes a row with another time and the same bytes for the same key', async () => {
    const memory = new KeyMemory({}, false)
    const row = await mintedRow(inner, 'alice')
    const read = memory.beginRead('alice')
    memory.endRead(read, [row])
    const lease = memory.lease(read.user, [row])
    const later = new Date(row.createdAt.getTime() + 60_000)
    memory.endRead(memory.beginRead('alice'), [{ ...row, createdAt: later }])
    expect(lease.ended).toBe(false)
  })

  it('ends the lease of a new key though the lease of an erased key is collected as garbage', async () => {
    const memory = new KeyMemory({ maxEntries: 1 }, false)
    const row = await mintedRow(inner, 'alice')
    for (let i = 0; i < 100; i++) memory.lease(memory.beginRead('alice').user, [row])
    memory.erase('alice', false)
    const lease = memory.lease(memory.beginRead('alice').user, [row])
    for (let i = 0; i < 20; i++) {
      collectGarbage()
      await sleep(5)
    }
    expect(memory.isLeased('alice')).toBe(true)
    memory.erase('alice', false)
    expect(lease.ended).toBe(true)
  })

  it('forgets a lease that is collected as garbage', async () => {
    const memory = new KeyMemory({}, false)
    const row = await mintedRow(inner, 'alice')
    const { user } = memory.beginRead('alice')
    for (let i = 0; i < 100; i++) memory.lease(user, [row])
    expect(memory.isLeased('alice')).toBe(true)
    await expect
      .poll(() => {
        collectGarbage()
        return memory.isLeased('alice')
      })
      .toBe(false)
  })

  it('has a user who was evicted during a read read again', async () => {
    const memory = new KeyMemory({ maxEntries: 1 }, false)
    const row = await mintedRow(inner, 'alice')
    const read = memory.beginRead('alice')
    for (let i = 0; i < 100_001; i++) memory.beginRead(`other-${i}`)
    // A change that is announced now would not reach the read.
    expect(memory.endRead(read, [row])).toBeNull()
    expect(memory.endRead(memory.beginRead('alice'), [row])).toMatchObject({ records: [row] })
  })
})
