/** testMasterKey passes keys that hold their contract, and fails each that breaks it in one way. */
import { describe, expect, it } from 'vitest'
import { generateMasterKey, localMasterKey } from '../../src/index.js'
import { type MasterKeySubject, testMasterKey } from '../../src/testing/index.js'
import { BROKEN_MASTER_KEYS, masterKeySubject } from '../support/broken-master-keys.js'

/** Runs the suite without a test runner. @returns the names of tests that failed */
async function failuresOf(subject: MasterKeySubject): Promise<string[]> {
  const tests: [string, () => Promise<void>][] = []
  testMasterKey({ describe: (_, body) => body(), it: (...test) => tests.push(test) }, subject)
  expect(tests.length).toBeGreaterThan(10)
  const failed: string[] = []
  for (const [name, body] of tests) {
    try {
      await body()
    } catch {
      failed.push(name)
    }
  }
  return failed
}

testMasterKey({ describe, it }, masterKeySubject())
testMasterKey(
  { describe, it },
  {
    name: 'a local master key',
    async open() {
      const text = generateMasterKey()
      const open = async () => localMasterKey(text)
      const other = async () => localMasterKey(generateMasterKey())
      return { masterKey: await open(), again: open, other, secrets: [text] }
    },
  },
)

describe('testMasterKey fails a key that', () => {
  for (const [name, breaking] of Object.entries(BROKEN_MASTER_KEYS))
    it(name, async () => {
      expect(await failuresOf(masterKeySubject(breaking))).not.toEqual([])
    })
})

it('every test of the suite fails some broken key', async () => {
  const all = new Set<string>()
  testMasterKey({ describe: (_, body) => body(), it: (name) => all.add(name) }, masterKeySubject())
  for (const breaking of Object.values(BROKEN_MASTER_KEYS))
    for (const name of await failuresOf(masterKeySubject(breaking))) all.delete(name)
  expect([...all]).toEqual([])
})

it('holds what a subject does not offer for untested', async () => {
  const full = masterKeySubject()
  const open = async () => {
    const { masterKey, again } = await full.open()
    return { masterKey, again }
  }
  expect(await failuresOf({ name: 'the least', open })).toEqual([])
})

it('closes the subject after each test, whether it failed or not', async () => {
  let openCount = 0
  const full = masterKeySubject(() => ({ id: '' }))
  const open = async () => {
    openCount += 1
    return {
      ...(await full.open()),
      close: async () => {
        openCount -= 1
      },
    }
  }
  await failuresOf({ name: 'counted', open })
  expect(openCount).toBe(0)
})
