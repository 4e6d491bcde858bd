/** The native core in processes of their own: memory, what stays in it, and threads. */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { itIf } from '../support/conditional.js'
import { describeNative } from '../support/native.js'
import { runInApp } from '../support/native-app.js'
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

  itIf(process.platform === 'linux', 'other systems do not end the process')(
    'is refused if its file was cut off, and JavaScript goes on',
    async () => {
      const require = createRequire(resolve('native/index.js'))
      const gypBuild = dirname(require.resolve('node-gyp-build'))
      const addon = readFileSync(require('node-gyp-build').path(resolve('native')))
      const files = [
        ...['package.json', 'index.js', 'complete.js'].map((name) => [name, join('native', name)]),
        ...['package.json', 'index.js', 'node-gyp-build.js'].map((name) => [
          `node_modules/node-gyp-build/${name}`,
          join(gypBuild, name),
        ]),
      ].map(([name = '', path = '']) => [name, readFileSync(path)])
      const script = `
        import { cryptoCore, decryptWithKey, encryptWithKey } from 'drizzle-keystore'
        const key = new Uint8Array(32)
        const text = decryptWithKey(encryptWithKey('x', key), key)
        console.log(JSON.stringify({ ...cryptoCore(), text }))
      `
      const withAddon = (file: Uint8Array) =>
        runInApp({ ...Object.fromEntries(files), 'build/Release/keystore_native.node': file }, script)
      expect(await withAddon(addon)).toMatchObject({ name: 'native', text: 'x' })
      const half = addon.length >> 1
      for (const length of [0, 100, half, addon.length - 1])
        expect(await withAddon(addon.subarray(0, length)), `${length} bytes`).toEqual({
          name: 'javascript',
          reason:
            '@drizzle-keystore/native cannot be loaded (ERR_ADDON_INCOMPLETE): install it anew, for this platform (npm rebuild @drizzle-keystore/native)',
          text: 'x',
        })
    },
  )

  it('works in worker threads at the same time, and when one ends in the middle of its work', async () => {
    const { codes } = await work('threads', slow ? '200000' : '5000')
    expect(codes).toEqual([0, 0, 0, 0])
  })
})
