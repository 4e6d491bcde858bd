/** What a process knows of users' keys longer than the cache keeps them. */
import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { localMasterKey } from '../../src/index.js'
import { KeyMemory } from '../../src/keys/memory.js'
import { mintedRow } from '../support/rows.js'

const inner = localMasterKey(randomBytes(32))

describe('the memory of keys', () => {
  it('ends a hold for good, though more users are erased than it remembers', async () => {
    const memory = new KeyMemory({}, false)
    const row = await mintedRow(inner, 'alice')
    const since = memory.now()
    const hold = memory.hold('alice', [row])
    const other = memory.hold('bob', [await mintedRow(inner, 'bob')])
    memory.erase('alice')
    for (let i = 0; i < 100_001; i++) memory.erase(`other-${i}`)
    expect(hold.ended).toBe(true)
    expect(other.ended).toBe(false)
    expect(memory.isErasedSince('alice', since)).toBe(true)
    expect(memory.isErasedSince('alice', memory.now())).toBe(false)
    expect(memory.hold('alice', [row]).ended).toBe(false)
  })
})
