/** What a process knows of users' keys longer than the cache keeps them. */
import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { localMasterKey } from '../../src/index.js'
import { KeyMemory } from '../../src/keys/memory.js'
import { mintedRow } from '../support/rows.js'

const inner = localMasterKey(randomBytes(32))

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
