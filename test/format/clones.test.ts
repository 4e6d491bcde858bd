/** Two clones of one process, as two restored snapshots of a virtual machine are: what they make must differ. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { itIf } from '../support/conditional.js'

const itWithDevice = itIf(process.platform !== 'win32', 'there is no /dev/urandom')

interface Made {
  /** Of a v3 and of a v2 token. */
  readonly before: readonly string[]
  readonly nonces: readonly string[]
  /** A master key and a data key. */
  readonly keys: readonly string[]
}

async function clones(...args: string[]): Promise<[Made, Made]> {
  const run = async (): Promise<Made> => {
    const { stdout } = await promisify(execFile)(process.execPath, ['test/children/clone.mjs', ...args])
    return JSON.parse(stdout)
  }
  return [await run(), await run()]
}

const same = (a: readonly string[], b: readonly string[]) => a.filter((made, index) => made === b[index])

describe('two clones of a process', () => {
  for (const what of ['reseed', 'wait'])
    itWithDevice(
      `share no nonce and no key once their pool of nonces was thrown away (${what}), though OpenSSL’s generator was cloned`,
      async () => {
        const [one, other] = await clones(what)
        // They are clones, and still make the same nonces before.
        expect(one.before).toEqual(other.before)
        expect(same(one.nonces, other.nonces)).toEqual([])
        expect(same(one.keys, other.keys)).toEqual([])
        expect(new Set([...one.nonces, ...other.nonces, ...one.before]).size).toBe(6)
      },
    )

  itWithDevice('share no key from the beginning, as keys are not pooled', async () => {
    const [one, other] = await clones('nothing')
    expect(one.nonces).toEqual(other.nonces)
    expect(same(one.keys, other.keys)).toEqual([])
  })

  it('share everything where the operating system’s generator cannot be read: what clones test is the mixing', async () => {
    const [one, other] = await clones('reseed', '--without-urandom')
    expect(one).toEqual(other)
  })
})
