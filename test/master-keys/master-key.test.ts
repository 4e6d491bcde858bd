import { inspect } from 'node:util'
import { describe, expect, it, vi } from 'vitest'
import { type Environment, generateMasterKey, localMasterKey, masterKeysFromEnv } from '../../src/index.js'
import { temporaryFolder } from '../support/databases.js'
import { errorOf } from '../support/errors.js'
import { bytesOf, expectNoTrace, idOf, idsOf, refusal } from '../support/key-texts.js'
import { warningsOf } from '../support/warnings.js'

describe('API_KEY_MASTER_KEY', () => {
  const key = generateMasterKey()
  const bytes = bytesOf(key)

  it.each([
    ['padded base64url', key],
    ['base64url without padding', key.replace('=', '')],
    ['padded base64', bytes.toString('base64')],
    ['base64 without padding', bytes.toString('base64').replace('=', '')],
    ['white space around it', `\t \n${key}\r\n `],
  ])('is taken as %s, without a warning', async (_, text) => {
    const warnings = await warningsOf(() => {
      expect(idsOf(masterKeysFromEnv({ API_KEY_MASTER_KEY: text }))).toEqual([idOf(key)])
    })
    expect(warnings).toEqual([])
  })

  it('is read from process.env if no environment is given', () => {
    const before = { ...process.env }
    try {
      process.env.API_KEY_MASTER_KEY = key
      delete process.env.API_KEY_MASTER_KEY_FILE
      delete process.env.API_KEY_MASTER_KEY_PREVIOUS
      expect(idsOf(masterKeysFromEnv())).toEqual([idOf(key)])
    } finally {
      for (const name of ['API_KEY_MASTER_KEY', 'API_KEY_MASTER_KEY_FILE', 'API_KEY_MASTER_KEY_PREVIOUS']) {
        const value = before[name]
        if (value === undefined) delete process.env[name]
        else process.env[name] = value
      }
    }
  })

  it.each<[string, Environment]>([
    ['nothing is set', {}],
    ['it is empty', { API_KEY_MASTER_KEY: '' }],
    ['it is white space', { API_KEY_MASTER_KEY: ' \n', API_KEY_MASTER_KEY_FILE: ' ' }],
    ['only previous keys are set', { API_KEY_MASTER_KEY_PREVIOUS: key }],
  ])('throws and says how to make one if %s', (_, env) => {
    const { message } = inEmptyFolder(() => refusal(() => masterKeysFromEnv(env)))
    expect(message).toContain('API_KEY_MASTER_KEY')
    expect(message).toContain('keystore init')
    expect(message).toContain('openssl rand -base64 32')
    expectNoTrace(message, key)
  })

  it.each([
    ['31 bytes', bytes.subarray(1).toString('base64')],
    ['33 bytes', Buffer.concat([bytes, bytes.subarray(0, 1)]).toString('base64')],
    ['quoted', `"${key}"`],
    ['two keys', `${key} ${generateMasterKey()}`],
    ['a character of neither alphabet inside', `${key.slice(0, 8)}.${key.slice(8)}`],
    ['white space inside', `${key.slice(0, 8)} ${key.slice(8)}`],
    ['half a padding', `${key}=`],
    ['a passphrase', 'correct horse battery staple correct horse'],
  ])('refuses %s, and never shows the value', (_, text) => {
    const error = refusal(() => masterKeysFromEnv({ API_KEY_MASTER_KEY: text }))
    const shown = `${error.message}\n${error.stack}\n${inspect(error, { showHidden: true, depth: null })}`
    expect(error.message).toMatch(/^API_KEY_MASTER_KEY is not base64 of exactly 32 bytes/)
    expect(error.message).toContain('openssl rand')
    for (let at = 0; at + 10 <= text.length; at++) expect(shown).not.toContain(text.slice(at, at + 10))
  })

  it.each([0x00, 0x61, 0xff])('refuses 32 bytes %i: anybody can guess them', (byte) => {
    const text = Buffer.alloc(32, byte).toString('base64')
    const { message } = refusal(() => masterKeysFromEnv({ API_KEY_MASTER_KEY: text }))
    expect(message).toContain('repeated 32 times')
    expect(message).not.toContain(text.slice(0, 12))
  })

  it('takes 31 equal bytes and another one', () => {
    const almost = Buffer.concat([Buffer.alloc(31, 0xff), Buffer.of(0xfe)])
    expect(masterKeysFromEnv({ API_KEY_MASTER_KEY: almost.toString('base64') }).primary.id).toBe(
      localMasterKey(almost).id,
    )
  })

  it('warns once of 32 printable characters, which are a passphrase, and takes them', async () => {
    const passphrase = 'correct horse battery staple 012'
    const text = Buffer.from(passphrase).toString('base64')
    const warnings = await warningsOf(() => {
      expect(masterKeysFromEnv({ API_KEY_MASTER_KEY: text }).primary.id).toBe(
        localMasterKey(Buffer.from(passphrase)).id,
      )
    })
    expect(warnings.map(({ code }) => code)).toEqual(['KEYSTORE_MASTER_KEY'])
    expect(warnings[0]?.message).toContain('passphrase')
    const shown = `${warnings[0]?.message} ${warnings[0]?.stack}`
    expect(shown).not.toContain('correct horse')
    expect(shown).not.toContain(text.slice(0, 12))
  })

  it('does not warn if one of the 32 bytes is not printable', async () => {
    const text = Buffer.from('correct horse battery staple 01\n').toString('base64')
    expect(await warningsOf(() => masterKeysFromEnv({ API_KEY_MASTER_KEY: text }))).toEqual([])
  })
})

describe('API_KEY_MASTER_KEY_PREVIOUS', () => {
  const [primary, older, oldest] = [generateMasterKey(), generateMasterKey(), generateMasterKey()] as const
  const previous = (text: string) =>
    masterKeysFromEnv({ API_KEY_MASTER_KEY: primary, API_KEY_MASTER_KEY_PREVIOUS: text })

  it.each([' ', '\n', ' \t\r\n '])('is a list separated by white space, here %j', (separator) => {
    const text = `${separator}${older}${separator}${oldest}${separator}`
    expect(idsOf(previous(text))).toEqual([primary, older, oldest].map(idOf))
  })

  it('may be empty or white space', () => {
    for (const text of ['', ' \n']) expect(idsOf(previous(text))).toEqual([idOf(primary)])
  })

  it('may repeat a key, and the primary: each is kept once, the primary as primary', () => {
    expect(idsOf(previous([older, primary, older, oldest, older].join(' ')))).toEqual(
      [primary, older, oldest].map(idOf),
    )
  })

  it('names a key that is unusable by its place, and shows none', () => {
    const { message } = refusal(() => previous(`${older} ${oldest.slice(0, -2)}`))
    expect(message).toMatch(/API_KEY_MASTER_KEY_PREVIOUS, key 2,/)
    expectNoTrace(message, primary, older, oldest)
    expect(message).not.toContain(oldest.slice(0, 10))
  })

  it('refuses a previous key of equal bytes too', () => {
    expect(refusal(() => previous(Buffer.alloc(32).toString('base64'))).message).toContain('PREVIOUS, key 1,')
  })
})

describe('generateMasterKey', () => {
  it('gives padded base64url of 32 bytes, which localMasterKey and the environment take, never twice the same', () => {
    const texts = Array.from({ length: 100 }, generateMasterKey)
    expect(new Set(texts).size).toBe(100)
    for (const text of texts) {
      expect(text).toMatch(/^[\w-]{43}=$/)
      expect(bytesOf(text).length).toBe(32)
      expect(localMasterKey(text).id).toBe(masterKeysFromEnv({ API_KEY_MASTER_KEY: text }).primary.id)
    }
  })
})

describe('localMasterKey', () => {
  const text = generateMasterKey()

  it('has an id that depends on the bytes alone, and a v2 id with the same fingerprint', () => {
    const key = localMasterKey(text)
    expect(key.id).toMatch(/^local:[\w-]{16}$/)
    expect(key.v2Id).toBe(key.id.replace('local:', 'local-v2:'))
    expect(localMasterKey(bytesOf(text)).id).toBe(key.id)
    expect(localMasterKey(` ${text}\n`).id).toBe(key.id)
    expect(localMasterKey(generateMasterKey()).id).not.toBe(key.id)
  })

  it.each([0x00, 0x07, 0xff])('refuses 32 bytes %i, as bytes and as text', async (byte) => {
    const bytes = Buffer.alloc(32, byte)
    for (const key of [bytes, new Uint8Array(bytes), bytes.toString('base64')]) {
      const error = await errorOf(() => localMasterKey(key))
      expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
      expect(error.message).toContain('repeated')
    }
  })

  it.each([
    ['a key', text],
    ['33 bytes', Buffer.concat([bytesOf(text), Buffer.of(1)]).toString('base64')],
    ['equal bytes', Buffer.alloc(32, 7).toString('base64')],
  ])('wipes what it decoded from the text of %s, and not the caller’s bytes', (_, given) => {
    const decode = vi.spyOn(Buffer, 'from')
    try {
      localMasterKey(given)
    } catch {
      // Refused keys are wiped, too.
    }
    const decoded = decode.mock.results.map(({ value }) => value as Buffer)
    decode.mockRestore()
    expect(decoded.map(({ length }) => length)).toEqual([bytesOf(given).length])
    for (const bytes of decoded) expect(bytes.equals(Buffer.alloc(bytes.length))).toBe(true)
    const bytes = bytesOf(text)
    localMasterKey(bytes)
    expect(bytes.equals(bytesOf(text))).toBe(true)
  })

  it.each<[string, (text: string) => unknown]>([
    ['variable', (given) => masterKeysFromEnv({ API_KEY_MASTER_KEY: given })],
    [
      'previous key',
      (given) => masterKeysFromEnv({ API_KEY_MASTER_KEY: text, API_KEY_MASTER_KEY_PREVIOUS: given }),
    ],
    ['path that is a key', (given) => masterKeysFromEnv({ API_KEY_MASTER_KEY_FILE: given })],
  ])('wipes what was decoded from a %s', (_, load) => {
    for (const given of [generateMasterKey(), Buffer.alloc(32, 7).toString('base64')]) {
      const decode = vi.spyOn(Buffer, 'from')
      try {
        load(given)
      } catch {
        // Refused keys are wiped, too.
      }
      const decoded = decode.mock.results.map(({ value }) => value as Buffer)
      decode.mockRestore()
      expect(decoded.length).toBeGreaterThan(0)
      for (const bytes of decoded) expect(bytes.equals(Buffer.alloc(bytes.length))).toBe(true)
    }
  })

  it('keeps working when the caller wipes the bytes', () => {
    const bytes = bytesOf(text)
    const key = localMasterKey(bytes)
    const wrapped = key.wrapV2(Buffer.alloc(32, 9))
    bytes.fill(0)
    expect(key.unwrapV2(wrapped)).toEqual(Buffer.alloc(32, 9))
    expect(localMasterKey(text).unwrapV2(key.wrapV2(Buffer.alloc(32, 8)))).toEqual(Buffer.alloc(32, 8))
  })

  it.each<[string, unknown]>([
    ['31 bytes', bytesOf(text).subarray(1)],
    ['33 bytes', Buffer.alloc(33, 1)],
    ['no bytes', new Uint8Array(0)],
    ['text that is not base64', 'not base64!'],
    ['text of 31 bytes', bytesOf(text).subarray(1).toString('base64')],
    ['null', null],
    ['an array of numbers', [...bytesOf(text)]],
    ['an ArrayBuffer', new ArrayBuffer(32)],
  ])('refuses %s with ERR_INVALID_ARGUMENT, without showing it', (_, key) => {
    let error: unknown
    try {
      localMasterKey(key as Uint8Array)
    } catch (caught) {
      error = caught
    }
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
    expectNoTrace(inspect(error, { showHidden: true, depth: null }), text)
  })
})

describe('what shows a key or a keyring', () => {
  const text = generateMasterKey()
  const key = localMasterKey(text)
  const keyring = masterKeysFromEnv({
    API_KEY_MASTER_KEY: generateMasterKey(),
    API_KEY_MASTER_KEY_PREVIOUS: text,
  })

  it.each([
    ['a local key', key],
    ['a keyring', keyring],
  ])('holds no byte of it: inspect, JSON, String and own properties of %s', (_, value) => {
    const shown = [
      inspect(value, { depth: Number.POSITIVE_INFINITY, showHidden: true }),
      JSON.stringify(value),
      String(value),
      JSON.stringify(Object.getOwnPropertyDescriptors(value)),
      JSON.stringify(structuredClone({ ...value })),
    ].join('\n')
    expect(shown).toContain(key.id)
    expectNoTrace(shown, text)
  })
})

/** This one may have a master key, such as after `npm start`, which the error then names. */
function inEmptyFolder<T>(work: () => T): T {
  const before = process.cwd()
  const folder = temporaryFolder()
  process.chdir(folder.path)
  try {
    return work()
  } finally {
    process.chdir(before)
    folder.remove()
  }
}
