/** The reader of Payload's values reads what the real library makes, and no garbage of another secret. */
import { randomBytes, randomUUID } from 'node:crypto'
import { BasePayload } from 'payload'
import { afterAll, describe, expect, it, vi } from 'vitest'
import { payloadReader } from '../../../src/reencrypt/index.js'
import { readBy, refusalBy } from '../../support/legacy-readers.js'

const SECRET = 'the secret of Payload'
const isUuid = (text: string) => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(text)

/** Payload's own, with the key that it derives from its config's secret. */
async function payloadWith(secret: string): Promise<BasePayload> {
  const payload = new BasePayload()
  vi.stubEnv('PAYLOAD_DISABLE_DEPENDENCY_CHECKER', 'true')
  // It derives the key before it needs what is not there.
  await expect(payload.init({ config: { secret } as never })).rejects.toThrow()
  expect(payload.secret).toMatch(/^[0-9a-f]{32}$/)
  return payload
}

afterAll(() => {
  vi.unstubAllEnvs()
})

describe('payloadReader', () => {
  it('reads what payload.encrypt makes', async () => {
    const payload = await payloadWith(SECRET)
    for (const text of [randomUUID(), 'schlüssel: sixteen bytes 🔑', 'line\n'.repeat(20_000)])
      expect(await readBy(payloadReader({ secret: SECRET }), payload.encrypt(text))).toBe(text)
  })

  it('refuses what another secret makes of a value, with its check and without', async () => {
    const payload = await payloadWith(SECRET)
    for (let round = 0; round < 200; round += 1) {
      const key = randomUUID()
      await refusalBy(payloadReader({ secret: 'another' }), payload.encrypt(key), [key, SECRET])
      await refusalBy(payloadReader({ secret: 'another', check: isUuid }), payload.encrypt(key), [
        key,
        SECRET,
      ])
    }
  })

  it('reads short texts only with a check: a plaintext in hexadecimal could come out as one', async () => {
    const payload = await payloadWith(SECRET)
    const value = payload.encrypt('sk-short')
    expect(await refusalBy(payloadReader({ secret: SECRET }), value, ['sk-short'])).toContain(
      'give the reader a check',
    )
    const withCheck = payloadReader({ secret: SECRET, check: (text) => text.startsWith('sk-') })
    expect(await readBy(withCheck, value)).toBe('sk-short')
    // As many API keys are.
    for (let round = 0; round < 200; round += 1)
      await refusalBy(payloadReader({ secret: SECRET }), randomBytes(20).toString('hex'))
  })

  it('lets its check alone decide, and refuses what throws or is no boolean', async () => {
    const payload = await payloadWith(SECRET)
    const value = payload.encrypt('control \u0001 in it, and more')
    await refusalBy(payloadReader({ secret: SECRET }), value)
    expect(await readBy(payloadReader({ secret: SECRET, check: () => true }), value)).toContain('control')
    await refusalBy(payloadReader({ secret: SECRET, check: (() => Promise.resolve(true)) as never }), value)
  })

  it('leaves alone what Payload does not write', () => {
    const reader = payloadReader({ secret: SECRET })
    for (const value of [
      '',
      'plain',
      randomBytes(16).toString('hex'),
      randomUUID(),
      `${randomBytes(30).toString('hex')}a`,
      'v3:abcd',
    ])
      expect(reader.test(value)).toBe(false)
  })

  it.each([[{}], [{ secret: '' }], [{ secret: SECRET, check: true }]])('refuses options %j', (options) => {
    expect(() => payloadReader(options as never)).toThrow(/must be a/)
  })
})
