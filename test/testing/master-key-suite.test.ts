/** testMasterKey passes keys that hold their contract, and fails each that breaks it in one way. */
import { describe, expect, it } from 'vitest'
import { generateMasterKey, localMasterKey, MasterKeyError } from '../../src/index.js'
import { type MasterKeySubject, testMasterKey } from '../../src/testing/index.js'
import { BROKEN_MASTER_KEYS, masterKeySubject } from '../support/broken-master-keys.js'

/** Runs the suite without a test runner. @returns the names of tests that failed */
async function failuresOf(subject: MasterKeySubject): Promise<string[]> {
  return [...(await messagesOf(subject)).keys()]
}

/** @returns what failed tests say, by their names */
async function messagesOf(subject: MasterKeySubject): Promise<Map<string, string>> {
  const tests: [string, () => Promise<void>][] = []
  testMasterKey({ describe: (_, body) => body(), it: (...test) => tests.push(test) }, subject)
  expect(tests.length).toBeGreaterThan(10)
  const failed = new Map<string, string>()
  for (const [name, body] of tests) {
    try {
      await body()
    } catch (error) {
      failed.set(name, error instanceof Error ? error.message : String(error))
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

describe('a failed test says what to do', () => {
  it('about errors that unwrap must throw', async () => {
    const naive = masterKeySubject(({ unwrap }) => ({
      unwrap: async (...call) => {
        try {
          return await unwrap(...call)
        } catch {
          throw new Error('Unsupported state or unable to authenticate data')
        }
      },
    }))
    expect((await messagesOf(naive)).get('refuses a wrap with any byte changed')).toMatch(
      /^byte \d+ of 60 changed: unwrap must throw a MasterKeyError with code ERR_UNWRAP_FAILED, and threw Error: Unsupported state/,
    )
  })

  it('about an AAD that is not bound', async () => {
    const unbound = masterKeySubject(BROKEN_MASTER_KEYS['ignores the AAD'])
    expect((await messagesOf(unbound)).get('refuses another AAD')).toBe(
      'the AAD of bob: unwrap opened it: wrap must bind the AAD, for example as the additional data of an AEAD',
    )
  })

  it('about reasons of failures', async () => {
    const silent = masterKeySubject(({ wrap }) => ({
      wrap: async (...call) => {
        try {
          return await wrap(...call)
        } catch {
          throw new MasterKeyError('ERR_MASTER_KEY', 'It failed')
        }
      },
    }))
    const name = 'says why the service failed, for each of the given `failures`, and works again once it does'
    expect((await messagesOf(silent)).get(name)).toContain(
      'wrap must throw a MasterKeyError with code ERR_MASTER_KEY and reason unavailable, which is retryable if it is an outage, and threw MasterKeyError: It failed',
    )
  })

  it('about a subject without again, or with no master key', async () => {
    const full = masterKeySubject()
    const { masterKey, again } = await full.open()
    const openers: [object, string][] = [
      [{ masterKey }, 'open() must return again(), which makes another instance of the same key'],
      [{ again }, 'open() must return a masterKey that has wrap()'],
    ]
    for (const [opened, said] of openers) {
      const open = async () => opened as Awaited<ReturnType<MasterKeySubject['open']>>
      for (const message of (await messagesOf({ name: 'incomplete', open })).values())
        expect(message).toContain(said)
    }
  })
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
