/** Limits of the formats: verifyAll, and so doctor, warns where a count that the store shows comes near one. */
import { describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { type CensusRow, generateMasterKey, localMasterKey, verifyAll } from '../../src/index.js'
import { mintedRow } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'
import { expectPrintable, HOSTILE_ID } from '../support/unprintable.js'

const masterKey = localMasterKey(generateMasterKey())
const row = (change: Partial<CensusRow>): CensusRow => ({
  kekId: masterKey.id,
  version: 1,
  shredded: false,
  count: 1,
  ...change,
})

/** The findings about limits in a store that counts its rows so. */
async function findingsOf(...census: CensusRow[]) {
  const inner = memoryKeyStore()
  await inner.insertIfAbsent([await mintedRow(masterKey, 'alice')])
  const store = overriding(inner, { census: async () => census })
  const { ok, findings } = await verifyAll({ store, masterKeys: masterKey })
  expect(ok).toBe(true)
  return findings.filter(({ kind }) => kind === 'nearLimit')
}

describe('limits', () => {
  it.each([masterKey.v2Id, null])(
    'warns of a quarter of 2³² wraps in format v2 under KEK id %s',
    async (kekId) => {
      expect(await findingsOf(row({ kekId, count: 2 ** 30 - 1 }))).toEqual([])
      expect(await findingsOf(row({ kekId, count: 2 ** 30 }))).toMatchObject([
        { severity: 'warning', kekId, reason: expect.stringContaining('4,294,967,296') },
      ])
    },
  )

  it('counts all versions of one KEK id, erased ones too, and each KEK id for itself', async () => {
    const half = { kekId: masterKey.v2Id, count: 2 ** 29 }
    expect(await findingsOf(row(half), row({ ...half, version: 2, shredded: true }))).toHaveLength(1)
    expect(await findingsOf(row(half), row({ ...half, kekId: 'local-v2:another' }))).toEqual([])
  })

  it('does not warn of as many in format v3, whose limit is 2⁴⁸', async () => {
    expect(await findingsOf(row({ count: 2 ** 40 }))).toEqual([])
    expect(await findingsOf(row({ count: 2 ** 46 }))).toMatchObject([
      { severity: 'warning', kekId: masterKey.id },
    ])
  })

  it('warns of a version in the upper half of those that there can be', async () => {
    expect(await findingsOf(row({ version: 2 ** 30 - 1 }))).toEqual([])
    expect(await findingsOf(row({ version: 2 ** 30 }))).toMatchObject([
      { severity: 'warning', reason: expect.stringContaining('2,147,483,647') },
    ])
  })

  it('names a KEK id of somebody else’s making without its control characters', async () => {
    const [finding] = await findingsOf(row({ kekId: HOSTILE_ID, count: 2 ** 46 }))
    expectPrintable(finding?.reason ?? '\n')
  })
})
