/** Tokens of format v3 as strings: which are malformed, which fail, and that no other outcome exists. */
import { randomBytes } from 'node:crypto'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { XaesKey } from '../../src/format/aead.js'
import { contextMap, contextPieces } from '../../src/format/context.js'
import { preAuthExtend } from '../../src/format/encoding.js'
import type { Format } from '../../src/format/formats.js'
import { isToken, parseToken, tokenAad } from '../../src/format/token.js'
import { EnvelopeCrypto, KeystoreError, localMasterKey } from '../../src/index.js'
import { DataKey } from '../../src/keys/data-key.js'
import { randomNumbers } from '../../src/testing/random-numbers.js'
import { errorOf } from '../support/errors.js'
import { everythingOf } from '../support/leaks.js'
import { slow } from '../support/slow.js'
import { gcmKeyOf, gcmOpened, openableUnderBoth } from '../support/two-key-ciphertext.js'

const ACCEPT: readonly Format[] = ['v2', 'v3']
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
const key = () =>
  new DataKey(
    {
      userId: 'alice',
      version: 1,
      encryptedKey: new Uint8Array(),
      kekId: null,
      createdAt: new Date(),
      wrappedAt: null,
    },
    randomBytes(32),
  )

/** The plaintext of a token, or the code of the error. */
function outcome(opener: DataKey, token: string, context: readonly string[] = []): string {
  try {
    return opener.open(parseToken(token, ACCEPT), context).toString()
  } catch (error) {
    if (error instanceof KeystoreError) return error.code
    throw error
  }
}

describe('a changed token', () => {
  const alice = key()
  const token = alice.seal('v3', 'sk-proj-0123456789', ['provider', 'openai'])
  const bytes = Buffer.from(token.slice(3), 'base64url')
  const open = (changed: Uint8Array) =>
    outcome(alice, `v3:${Buffer.from(changed).toString('base64url')}`, ['provider', 'openai'])

  it('fails for every single bit flipped, with one message', () => {
    expect(open(bytes)).toBe('sk-proj-0123456789')
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const flipped = Uint8Array.from(bytes)
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (0x80 >> (bit & 7))
      // The first bit of the version makes it too large; the version's last makes it 0.
      const malformed = bit === 0 || bit === 31
      expect(open(flipped)).toBe(malformed ? 'ERR_MALFORMED_TOKEN' : 'ERR_DECRYPTION_FAILED')
    }
  })

  it('fails for every truncation and extension', () => {
    for (let length = 0; length < bytes.length; length++) {
      expect(open(bytes.subarray(0, length))).toBe(
        length < 76 ? 'ERR_MALFORMED_TOKEN' : 'ERR_DECRYPTION_FAILED',
      )
      expect(open(bytes.subarray(bytes.length - length))).toMatch(/^ERR_(MALFORMED_TOKEN|DECRYPTION_FAILED)$/)
    }
    for (const tail of [[0], [0xff], [0, 0], Array(32).fill(0)]) {
      expect(open(Uint8Array.from([...bytes, ...tail]))).toBe('ERR_DECRYPTION_FAILED')
    }
  })

  it('is malformed for every character cut, and for what is not canonical base64url', () => {
    for (let length = 0; length < token.length; length++) {
      expect(outcome(alice, token.slice(0, length))).not.toBe('sk-proj-0123456789')
    }
    for (const [what, bad] of notCanonical(token)) {
      expect([what, outcome(alice, bad, ['provider', 'openai'])]).toEqual([what, 'ERR_MALFORMED_TOKEN'])
      expect(isToken(bad)).toBe(false)
    }
  })

  it('has exactly one text: every spare bit of the last character is refused, for all lengths modulo 3', () => {
    for (const plaintext of ['', 'a', 'ab']) {
      const good = alice.seal('v3', plaintext, [])
      const others = [...ALPHABET].map((last) => good.slice(0, -1) + last).filter((other) => other !== good)
      expect(outcome(alice, good)).toBe(plaintext)
      for (const other of others) {
        expect(outcome(alice, other)).toMatch(/^ERR_(MALFORMED_TOKEN|DECRYPTION_FAILED)$/)
      }
    }
  })
})

function notCanonical(token: string): [string, string][] {
  const body = token.slice(3)
  const at = (index: number, insert: string) => `v3:${body.slice(0, index)}${insert}${body.slice(index)}`
  const padded = '='.repeat(-body.length & 3)
  return [
    ['padding', `${token}=`],
    ['right padding', `${token}${padded || '===='}`],
    ['+ for -', `v3:${body.replace(/[-A-Za-z]/, '+')}`],
    ['/ for _', `v3:${body.replace(/[_A-Za-z]/, '/')}`],
    ['a space inside', at(20, ' ')],
    ['a line end inside', at(20, '\n')],
    ['white space before', at(0, ' ')],
    ['white space after', `${token} `],
    ['a line end after', `${token}\n`],
    ['a character outside ASCII whose low byte is a letter', `v3:${body.slice(0, 9)}\u0141${body.slice(10)}`],
    ['one character more, so that 6 bits are left over', `v3:${'A'.repeat(105)}`],
    ['nothing', 'v3:'],
  ]
}

describe('the commitment', () => {
  it('refuses a ciphertext that opens under two AES-GCM keys', () => {
    const [first, second] = [randomBytes(32), randomBytes(32)]
    const [nonce, aad] = [randomBytes(24), Buffer.from('the same for both')]
    const crafted = openableUnderBoth(
      gcmKeyOf(first, nonce),
      gcmKeyOf(second, nonce),
      nonce.subarray(12),
      aad,
    )
    // The attack on plain AES-GCM: both keys open it, to different plaintexts.
    const plain = [first, second].map((k) => gcmOpened(gcmKeyOf(k, nonce), nonce.subarray(12), crafted, aad))
    expect(plain[0]?.equals(plain[1] ?? Buffer.alloc(0))).toBe(false)

    const commitment = (k: Buffer) => new XaesKey(k).sealWithNonce(nonce, '', aad).subarray(-32)
    const committedToFirst = Buffer.concat([nonce, crafted, commitment(first)])
    expect(new XaesKey(first).open(committedToFirst, aad)).toEqual(plain[0])
    expect(new XaesKey(second).open(committedToFirst, aad)).toBeNull()
    const committedToSecond = Buffer.concat([nonce, crafted, commitment(second)])
    expect(new XaesKey(first).open(committedToSecond, aad)).toBeNull()
    expect(new XaesKey(second).open(committedToSecond, aad)).toEqual(plain[1])
  })
})

describe('contexts', () => {
  const context = fc.dictionary(fc.string({ unit: 'grapheme' }), fc.string({ unit: 'grapheme' }), {
    maxKeys: 6,
  })
  const encode = (map: Record<string, string>) =>
    preAuthExtend(tokenAad({ userId: 'alice', version: 1 }), contextPieces(map)).toString('hex')
  const canonical = (map: Record<string, string>) =>
    JSON.stringify(Object.entries(map).sort(([a], [b]) => (a < b ? -1 : 1)))

  it('encode injectively: two maps share an encoding only if they are equal', () => {
    fc.assert(
      fc.property(context, context, (a, b) => {
        expect(encode(a) === encode(b)).toBe(canonical(a) === canonical(b))
        expect(encode(Object.fromEntries(Object.entries(a).reverse()))).toBe(encode(a))
      }),
      { numRuns: slow ? 100_000 : 2_000 },
    )
  })

  it('encode differently when names and values are cut at other places', () => {
    const maps: Record<string, string>[] = [
      {},
      { '': '' },
      { a: 'bc' },
      { ab: 'c' },
      { abc: '' },
      { '': 'abc' },
      { a: 'b', c: '' },
      { a: 'b', '': 'c' },
      { a: '1', b: '2' },
      { a: '2', b: '1' },
      { a: '1b2' },
      { b: '1', a: '2' },
      { a: '\0' },
      { 'a\0': '' },
    ]
    const distinct = new Set(maps.map(canonical))
    expect(new Set(maps.map(encode)).size).toBe(distinct.size)
    const users = [encode({}), tokenAad({ userId: 'alice1', version: 1 }).toString('hex')]
    expect(users[0]).not.toBe(users[1])
  })

  it('take plain objects of strings only', () => {
    const bad = [
      null,
      'a',
      1,
      [],
      ['a'],
      new Map([['a', 'b']]),
      new Date(),
      { a: 1 },
      { a: null },
      { a: '\ud800' },
    ]
    for (const value of [...bad, { '\udc00': 'a' }, { a: ['b'] }]) {
      expect(() => contextPieces(value)).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }))
    }
    const bare = Object.assign(Object.create(null), { a: 'b' })
    expect(contextPieces(bare)).toEqual(['a', 'b'])
    expect(contextPieces({ '\u{1F600}': '2', '\uff5e': '1' })).toEqual(['\uff5e', '1', '\u{1F600}', '2'])
    expect(contextPieces(runInNewContext("({ a: 'b' })"))).toEqual(['a', 'b'])
  })

  const hidden = (object: object) =>
    Object.defineProperty(object, 'tenant', { value: 'a', enumerable: false, configurable: true })
  it.each<[string, () => object]>([
    ['a symbol', () => ({ [Symbol('tenant')]: 'a' })],
    ['a symbol beside a name', () => ({ [Symbol('tenant')]: 'a', column: 'b' })],
    ['a name that is not enumerable', () => hidden({})],
    ['one beside another', () => hidden({ column: 'b' })],
    ['inherited names', () => Object.create({ tenant: 'a' })],
    [
      'names inherited from an object without a prototype',
      () => Object.create(Object.assign(Object.create(null), { tenant: 'a' })),
    ],
    [
      'names of a class',
      () =>
        new (class Context {
          get tenant() {
            return 'a'
          }
        })(),
    ],
  ])('refuse %s, which would be taken for no context', (_, make) => {
    expect(() => contextPieces(make())).toThrow(expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }))
    expect(() => contextMap(make() as never)).toThrow(
      expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }),
    )
  })

  const throwing: Record<string, () => object> = {
    getter: () => ({
      get tenant(): string {
        throw new Error('sk-planted')
      },
    }),
    'proxy of its names': () =>
      new Proxy(
        {},
        {
          ownKeys() {
            throw new Error('sk-planted')
          },
        },
      ),
    'proxy of its prototype': () =>
      new Proxy(
        {},
        {
          getPrototypeOf() {
            throw new Error('sk-planted')
          },
        },
      ),
  }
  it.each(Object.entries(throwing))(
    'that throw when they are read (%s) are an error of ours',
    async (_, make) => {
      const envelope = await EnvelopeCrypto.open({
        store: memoryKeyStore(),
        masterKeys: localMasterKey(randomBytes(32)),
      })
      const alice = await envelope.user('alice')
      const token = alice.encrypt('x')
      const works: (() => unknown)[] = [
        () => envelope.encrypt('alice', 'x', make() as never),
        () => envelope.encryptBytes('alice', new Uint8Array(1), make() as never),
        () => envelope.decrypt('alice', token, make() as never),
        () => envelope.decryptBytes('alice', token, make() as never),
        () => envelope.pool.encrypt('x', make() as never),
        () => alice.encrypt('x', make() as never),
        () => alice.decrypt(token, make() as never),
        () => contextMap(make() as never),
      ]
      for (const work of works) {
        const error = await errorOf(work)
        expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT' })
        expect(everythingOf(error)).not.toContain('sk-planted')
      }
    },
  )

  it('are read once: what a getter gives later does not count', () => {
    let reads = 0
    const context = {
      get tenant() {
        reads += 1
        return String(reads)
      },
    }
    const map = contextMap(context)
    expect([map.tenant, map.tenant, reads]).toEqual(['1', '1', 1])
  })
})

const MUTATIONS_MAY_TAKE_MS = slow ? 600_000 : 60_000

describe('whatever string comes in', () => {
  it(
    `gives a KeystoreError with a known code, ${slow ? '5,000,000' : '200,000'} times`,
    async () => {
      const envelope = await EnvelopeCrypto.open({
        store: memoryKeyStore(),
        masterKeys: localMasterKey(randomBytes(32)),
        accept: { tokens: ['v2'] },
      })
      const alice = await envelope.user('alice')
      const seeds = [
        alice.encrypt('x'),
        alice.encrypt('y'.repeat(60), { a: 'b' }),
        `v2:${randomBytes(40).toString('base64url')}`,
      ]
      const known = new Set([
        'ERR_NOT_ENCRYPTED',
        'ERR_MALFORMED_TOKEN',
        'ERR_DECRYPTION_FAILED',
        'ERR_KEY_NOT_FOUND',
      ])
      const seen = new Map<string, number>()
      const random = randomNumbers(20261123)
      for (let count = slow ? 5_000_000 : 200_000; count > 0; count--) {
        const value = mutated(seeds[count % seeds.length] ?? '', random)
        if (seeds.includes(value)) continue
        let code = 'opened'
        try {
          alice.decrypt(value)
        } catch (error) {
          if (!(error instanceof KeystoreError)) throw error
          code = error.code
        }
        seen.set(code, (seen.get(code) ?? 0) + 1)
      }
      expect([...seen.keys()].filter((code) => !known.has(code))).toEqual([])
      expect(seen.size).toBe(known.size)
      await envelope.close()
    },
    MUTATIONS_MAY_TAKE_MS,
  )
})

/** One to four edits: a character replaced, removed, inserted, doubled, or the whole cut or made random. */
function mutated(token: string, random: () => number): string {
  let value = token
  for (let edits = 1 + Math.floor(random() * 4); edits > 0; edits--) {
    const at = Math.floor(random() * (value.length + 1))
    const pick = Math.floor(random() * 8)
    const letter = ALPHABET.charAt(Math.floor(random() * 64))
    const odd = '=+/ \n\0é\u0141\u{1F600}:v3'.charAt(Math.floor(random() * 13))
    if (pick === 0) value = value.slice(0, at) + value.slice(at + 1)
    else if (pick === 1) value = value.slice(0, at) + odd + value.slice(at)
    else if (pick === 2) value = value.slice(0, at)
    else if (pick === 3) value = value.slice(at) + value.slice(0, at)
    else if (pick === 4) value = value.slice(0, at) + letter.repeat(4) + value.slice(at)
    else value = value.slice(0, at) + letter + value.slice(at + 1)
  }
  return value
}
