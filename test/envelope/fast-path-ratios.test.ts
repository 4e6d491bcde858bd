/**
 * Ratios between the times of calls, which are exceeded on any machine if a fast path is lost. The limits are wide, and each test has
 * three attempts. Runs alone, after all other files. bench/ measures the times themselves.
 */
import { createCipheriv, createDecipheriv, createSecretKey, randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { EnvelopeCrypto, localMasterKey } from '../../src/index.js'

const ROUNDS = 31
const SLICE_MICROS = 4000

/** Processor time of each call in microseconds, to which other processes do not add. Calls take turns; the fastest third of the rounds counts. */
async function costs<Name extends string>(work: Record<Name, () => unknown>): Promise<Record<Name, number>> {
  const entries = Object.entries(work) as [Name, () => unknown][]
  const measured = async (run: () => unknown, times: number) => {
    const start = process.cpuUsage()
    for (let i = 0; i < times; i += 1) {
      const result = run()
      if (result instanceof Promise) await result
    }
    const { user, system } = process.cpuUsage(start)
    return user + system
  }
  const times = new Map<Name, number>()
  for (const [name, run] of entries) {
    let count = 16
    while ((await measured(run, count)) < SLICE_MICROS) count *= 2
    times.set(name, count)
  }
  const rounds: Record<string, number[]> = {}
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [name, run] of entries) {
      const count = times.get(name) ?? 1
      const list = rounds[name] ?? []
      list.push((await measured(run, count)) / count)
      rounds[name] = list
    }
  }
  const fast = (name: Name) => (rounds[name] ?? []).toSorted((a, b) => a - b)[Math.floor(ROUNDS / 3)] ?? 0
  return Object.fromEntries(entries.map(([name]) => [name, fast(name)])) as Record<Name, number>
}

describe.each([
  { size: '32 B', bytes: 32, v2OfRaw: 3, v3OfV2: 3, awaitedOfHandle: 2 },
  { size: '64 KiB', bytes: 65_536, v2OfRaw: 5, v3OfV2: 2, awaitedOfHandle: 2 },
])('tokens of $size', ({ bytes, v2OfRaw, v3OfV2, awaitedOfHandle }) => {
  it('cost little more than node:crypto alone', { retry: 2 }, async () => {
    const text = randomBytes(bytes / 2).toString('hex')
    const open = (format: 'v2' | 'v3') =>
      EnvelopeCrypto.open({ store: memoryKeyStore(), masterKeys: localMasterKey(randomBytes(32)), format })
    const [v2, v3] = [await open('v2'), await open('v3')]
    const [v2Handle, v3Handle] = [await v2.user('alice'), await v3.user('alice')]
    const [v2Token, v3Token] = [v2Handle.encrypt(text), v3Handle.encrypt(text)]
    const key = createSecretKey(randomBytes(32))
    const seal = () => {
      const nonce = randomBytes(12)
      const cipher = createCipheriv('aes-256-gcm', key, nonce)
      const ciphertext = cipher.update(text, 'utf8')
      cipher.final()
      return { nonce, ciphertext, tag: cipher.getAuthTag() }
    }
    const { nonce, ciphertext, tag } = seal()
    const cost = await costs({
      rawEncrypt: seal,
      v2Encrypt: () => v2Handle.encrypt(text),
      v3Encrypt: () => v3Handle.encrypt(text),
      awaitedEncrypt: () => v3.encrypt('alice', text),
      rawDecrypt: () => {
        const decipher = createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: 16 }).setAuthTag(tag)
        return decipher.update(ciphertext).toString() + decipher.final('utf8')
      },
      v2Decrypt: () => v2Handle.decrypt(v2Token),
      v3Decrypt: () => v3Handle.decrypt(v3Token),
    })
    expect(cost.v2Encrypt / cost.rawEncrypt).toBeLessThan(v2OfRaw)
    expect(cost.v2Decrypt / cost.rawDecrypt).toBeLessThan(v2OfRaw)
    expect(cost.v3Encrypt / cost.v2Encrypt).toBeLessThan(v3OfV2)
    expect(cost.v3Decrypt / cost.v2Decrypt).toBeLessThan(v3OfV2)
    expect(cost.awaitedEncrypt / cost.v3Encrypt).toBeLessThan(awaitedOfHandle)
    await v2.close()
    await v3.close()
  })
})
