/** A failure of the conformance suite names the rule of the contract that the store broke. master-key-suite.test.ts shows the same of testMasterKey. */
import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { type TestRunner, testKeyStore } from '../../src/testing/index.js'
import { breaks } from '../support/broken-stores.js'
import { memorySubject } from '../support/conformance.js'

/** What the tests of a suite whose names have the word throw. */
async function failuresOf(define: (runner: TestRunner) => void, word: string): Promise<Error[]> {
  const tests: (() => Promise<void>)[] = []
  const before: (() => Promise<void>)[] = []
  const after: (() => Promise<void>)[] = []
  define({
    describe: (_, body) => body(),
    it: (name, body) => (name.includes(word) ? tests.push(body) : 0),
    beforeEach: (hook) => before.push(hook),
    afterEach: (hook) => after.push(hook),
  })
  expect(tests.length).toBeGreaterThan(0)
  const failures: Error[] = []
  for (const test of tests) {
    for (const hook of before) await hook()
    await test().catch((error) => failures.push(error))
    for (const hook of after) await hook()
  }
  return failures
}

/** Broken stores of the conformance test, a word of the test that finds each, and the beginning of what it says. */
const BROKEN = [
  ['each writer is given its own row', 'race', 'KeyStore.insertIfAbsent: exactly one writer wins a ref'],
  [
    'version n is inserted without n − 1',
    'n − 1',
    'KeyStore.insertIfAbsent: version n is inserted only if n − 1',
  ],
  [
    'a mint succeeds on a tombstone',
    'inserts nothing',
    'KeyStore.insertIfAbsent: a tombstone forbids every insert',
  ],
  [
    'rows hold the bytes object of the caller',
    'does not keep',
    'KeyStore.getActive and getAll: arrays and Dates are copied',
  ],
  ['ids are normalised', 'unusual ids', 'KeyStore.getActive and getAll: ids are bytes'],
  ['replaceWrapped does not compare the old bytes', 'still hold', 'KeyStore.replaceWrapped: compare-and-set'],
  [
    'pages are in JavaScript’s order of strings',
    'UTF-8',
    'KeyStore.list: the order is that of the user id’s UTF-8 bytes',
  ],
  [
    'a shred keeps the wrapped bytes',
    'erases every version',
    'KeyStore.shred and remove: a shred erases every version',
  ],
] as const

describe('a failure of testKeyStore', () => {
  it.each(BROKEN)('names the rule, where %s', async (name, word, rule) => {
    const change = breaks[name]
    if (change === undefined) throw new Error(`there is no such broken store: ${name}`)
    const [first] = await failuresOf((runner) => testKeyStore(runner, memorySubject(name, change)), word)
    expect(first?.message.slice(0, rule.length)).toBe(rule)
    // What was expected follows, and the stack tells the same.
    expect(first?.message.split('\n').length).toBeGreaterThan(1)
    expect(first?.stack).toContain(rule)
    expect(first).toMatchObject({ code: 'ERR_ASSERTION' })
  })

  it('is none for a store that keeps the contract', async () => {
    const failures = await failuresOf(
      (runner) =>
        testKeyStore(runner, {
          name: 'memory',
          open: async () => ({ store: memoryKeyStore(), close: async () => undefined }),
        }),
      'tombstone',
    )
    expect(failures).toEqual([])
  })

  it('has no rule for a test that is not there', () => {
    const files = readdirSync('src/testing').filter((file) => file !== 'rules.ts')
    const suites = files.map((file) => readFileSync(`src/testing/${file}`, 'utf8')).join('')
    const names = [...readFileSync('src/testing/rules.ts', 'utf8').matchAll(/^ {2}'([^']+)':/gm)].map(
      ([, name = '']) => name,
    )
    expect(names.length).toBeGreaterThan(20)
    expect(names.filter((name) => !suites.includes(name))).toEqual([])
  })
})
