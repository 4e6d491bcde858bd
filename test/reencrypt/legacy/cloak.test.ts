/** The reader of cloak's values reads what the real library makes. */
import { encryptString, generateKey } from '@47ng/cloak'
import { describe, expect, it } from 'vitest'
import { cloakReader } from '../../../src/reencrypt/index.js'
import { damaged, readBy, refusalBy } from '../../support/legacy-readers.js'

const [key, other] = [generateKey(), generateKey()]

describe('cloakReader', () => {
  it.each(['sk-live', '', 'schlüssel 🔑', 'x'.repeat(100_000), 'ab', 'abc'])(
    'reads values under each of its keys',
    async (text) => {
      const reader = cloakReader({ keys: [other, key] })
      for (const one of [key, other]) {
        const value = await encryptString(text, one)
        expect(value).toMatch(/^v1\.aesgcm256\./)
        expect(await readBy(reader, value)).toBe(text)
      }
    },
  )

  it('refuses values under a key that it was not given, though they name another', async () => {
    const value = await encryptString('sk-live', key)
    const secrets = ['sk-live', key, other]
    const reader = cloakReader({ keys: [other] })
    expect(await refusalBy(reader, value, secrets)).toContain('was not given')
    const [, , fingerprint] = (await encryptString('x', other)).split('.')
    const renamed = value.split('.').map((part, index) => (index === 2 ? fingerprint : part))
    expect(await refusalBy(reader, renamed.join('.'), secrets)).toContain('wrong')
  })

  it('refuses a value that was changed or cut', async () => {
    const reader = cloakReader({ keys: [key] })
    const value = await encryptString('a longer secret, to be damaged', key)
    for (const at of [16, 24, 45, -6]) await refusalBy(reader, damaged(value, at))
    for (const cut of [1, 5, 30, 60]) await refusalBy(reader, value.slice(0, -cut))
    await refusalBy(reader, `${value}.x`)
  })

  it('leaves alone what is not cloak’s', () => {
    const reader = cloakReader({ keys: [key] })
    for (const value of ['', 'v1.', 'v1.aesgcm128.x', 'eyJhbGciOiJIUzI1NiJ9.e30.x', key])
      expect(reader.test(value)).toBe(false)
  })

  it.each([
    [{}],
    [{ keys: [] }],
    [{ keys: ['abc'] }],
    [{ keys: [generateKey().slice(0, -4)] }],
    [{ keys: [7] }],
  ])('refuses options %j without showing them', (options) => {
    expect(() => cloakReader(options as never)).toThrow(/^keys must be/)
  })
})
