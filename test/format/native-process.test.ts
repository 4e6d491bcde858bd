/** The native core in processes of their own: memory, what stays in it, and threads. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { itIf } from '../support/conditional.js'
import { describeNative } from '../support/native.js'
import { slow } from '../support/slow.js'

async function work(...args: string[]) {
  const { stdout } = await promisify(execFile)(process.execPath, [
    '--expose-gc',
    'test/children/native-work.mjs',
    ...args,
  ])
  return JSON.parse(stdout)
}

/** AddressSanitizer keeps what was freed for a while, and shadows all memory. */
const isSanitized = process.env.ASAN_OPTIONS !== undefined
const itPlain = itIf(!isSanitized, 'a sanitizer changes what memory holds')

describeNative('the native core', () => {
  itPlain('keeps the memory of the process as it is over many calls', async () => {
    const { grownMib } = await work('leaks', slow ? '10000000' : '200000')
    expect(grownMib).toBeLessThan(16)
  })

  itPlain('frees keys when they are collected', async () => {
    const { grownMib } = await work('keys', slow ? '1000000' : '20000')
    // They take 2 KiB each: 40 MiB of 20,000.
    expect(grownMib).toBeLessThan(16)
  })

  const hasMaps = process.platform === 'linux'
  itIf(hasMaps && !isSanitized, 'it takes /proc/self/mem, and no sanitizer')(
    'has no plaintext in memory after a call, and no key after its collection',
    async () => {
      const { isSame, inUse, afterwards } = await work('wiped')
      expect(isSame).toBe(true)
      // What is looked for can be found: the schedule of AES-256 begins with the key.
      expect(inUse).toEqual([1, 0, 0])
      expect(afterwards).toEqual([0, 0, 0])
    },
  )

  it('works in worker threads at the same time, and when one ends in the middle of its work', async () => {
    const { codes } = await work('threads', slow ? '200000' : '5000')
    expect(codes).toEqual([0, 0, 0, 0])
  })
})
