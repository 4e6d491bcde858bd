/** Which core is chosen, and what is said of it: absent, unusable, turned off, in use. Each in a process of its own, with an addon of its own. */
import { describe, expect, it } from 'vitest'
import type { Core, ParsedToken, V2Key, V3Key } from '../../src/format/core.js'
import { javascriptCore } from '../../src/format/javascript-core.js'
import { passesSelfTest } from '../../src/format/self-test.js'
import { itIf } from '../support/conditional.js'
import { builtAddon } from '../support/native.js'
import { type NativePackage, runInApp } from '../support/native-app.js'

const SCRIPT = `
  const { cryptoCore, EnvelopeCrypto, generateMasterKey, localMasterKey } = await import('drizzle-keystore')
  const { memoryKeyStore } = await import('drizzle-keystore/memory')
  const events = []
  const masterKeys = localMasterKey(generateMasterKey())
  const onEvent = (event) => events.push(event)
  const envelope = await EnvelopeCrypto.open({ store: memoryKeyStore(), masterKeys, onEvent })
  const text = await envelope.decrypt('alice', await envelope.encrypt('alice', 'x'))
  const ofCore = events.filter(({ type }) => type === 'nativeCore')
  console.log(JSON.stringify({ ...cryptoCore(), events: ofCore, text, wasLoaded: globalThis.wasLoaded === true }))
`

/** What an application finds. */
function found(native: NativePackage, script = SCRIPT) {
  return runInApp(native, script)
}

/** The same with the environment variable. */
function turnedOff(native: NativePackage) {
  return found(native, `process.env.KEYSTORE_NATIVE = '0'\n${SCRIPT}`)
}

const CLASSES = 'V3Key: class {}, V2Key: class {}, versionOf: () => 1, forgetNonces() {}'

describe('the core that is used', () => {
  it('is JavaScript, without an event, where the native one is not installed', async () => {
    expect(await found(null)).toEqual({
      name: 'javascript',
      reason: '@drizzle-keystore/native is not installed',
      events: [],
      text: 'x',
      wasLoaded: false,
    })
  })

  it.each([
    [
      'is no module of machine code',
      { 'package.json': '{ "main": "addon.node" }', 'addon.node': 'garbage' },
      'cannot be loaded (ERR_DLOPEN_FAILED)',
    ],
    ['throws', { 'index.js': "throw new Error('sk-secret')" }, 'cannot be loaded: install'],
    ['has another interface', { 'index.js': 'exports.interfaceVersion = 2' }, 'is of another version'],
    ['gives nothing', { 'index.js': 'module.exports = null' }, 'cannot be loaded: install'],
    [
      'makes no core',
      { 'index.js': "exports.interfaceVersion = 1; exports.createCore = () => { throw new Error('no') }" },
      'the self-test of @drizzle-keystore/native failed',
    ],
    [
      'does nothing',
      { 'index.js': `exports.interfaceVersion = 1; exports.createCore = () => ({ ${CLASSES} })` },
      'the self-test of @drizzle-keystore/native failed',
    ],
  ])('is JavaScript, and an event says why, if the native one %s', async (_, files, why) => {
    const { events, ...rest } = await found(files)
    expect(rest).toMatchObject({ name: 'javascript', reason: expect.stringContaining(why), text: 'x' })
    expect(events).toEqual([{ type: 'nativeCore', reason: rest.reason }])
    expect(rest.reason).not.toContain('sk-secret')
  })

  const loaded = { 'index.js': 'globalThis.wasLoaded = true; exports.interfaceVersion = 2' }
  it('is JavaScript, without an event, if KEYSTORE_NATIVE is 0: the native one is not even loaded', async () => {
    expect(await found(loaded)).toMatchObject({ wasLoaded: true })
    expect(await turnedOff(loaded)).toEqual({
      name: 'javascript',
      reason: 'KEYSTORE_NATIVE=0 turns it off',
      events: [],
      text: 'x',
      wasLoaded: false,
    })
  })

  it('is JavaScript in other runtimes, which bring another OpenSSL', async () => {
    for (const [name, version] of [
      ['bun', '1.2.0'],
      ['electron', '40.0.0'],
      ['openssl', '1.1.1'],
    ]) {
      const change = `Object.defineProperty(process, 'versions', { value: { ...process.versions, ${name}: '${version}' } })`
      const { reason, events, wasLoaded } = await found(loaded, `${change}\n${SCRIPT}`)
      expect({ reason, events, wasLoaded }).toEqual({
        reason: 'this runtime is not Node.js with OpenSSL 3',
        events: [],
        wasLoaded: false,
      })
    }
  })

  itIf(builtAddon !== null, 'the addon is not built: node scripts/build-native.mjs')(
    'is the native one where it is installed, without an event',
    async () => {
      expect(await found('built')).toMatchObject({ name: 'native', events: [], text: 'x' })
      expect(await turnedOff('built')).toMatchObject({ name: 'javascript', events: [], text: 'x' })
    },
  )
})

describe('the self-test', () => {
  /** JavaScript's core with one thing done wrong. */
  function faulty(change: {
    core?: Partial<Core>
    v3?: (key: V3Key) => object
    v2?: (key: V2Key) => object
  }): Core {
    const bound = <Key extends object>(key: Key, changes: object): Key =>
      new Proxy(key, {
        get: (target, name) =>
          Reflect.get(changes, name) ??
          (Reflect.get(target, name) as (...args: unknown[]) => unknown).bind(target),
      })
    return {
      ...javascriptCore,
      v3Key: (derive) => {
        const key = javascriptCore.v3Key(derive)
        return bound(key, change.v3?.(key) ?? {})
      },
      v2Key: (given) => {
        const key = javascriptCore.v2Key(given)
        return bound(key, change.v2?.(key) ?? {})
      },
      ...change.core,
    }
  }

  it('passes the reference', () => {
    expect(passesSelfTest(javascriptCore)).toBe(true)
    expect(passesSelfTest(faulty({}))).toBe(true)
  })

  const text = 'Schlüssel 🔑'
  const wrong: [string, Core][] = [
    ['opens whatever it is given', faulty({ v3: () => ({ openTokenText: () => text }) })],
    [
      'does not compare the commitment',
      faulty({
        v3: (key) => {
          let authentic = ''
          return {
            openTokenText: (token: ParsedToken, aad: Uint8Array) => {
              const opened = key.openTokenText(token, aad)
              if (opened !== null) authentic = token.text
              // The commitment is the last 43 characters.
              return opened ?? (authentic.startsWith(token.text.slice(0, -44)) ? text : null)
            },
          }
        },
      }),
    ],
    [
      'gives undefined for what it refuses',
      faulty({
        v3: (key) => ({
          openTokenText: (token: ParsedToken, aad: Uint8Array) => key.openTokenText(token, aad) ?? undefined,
        }),
      }),
    ],
    ['opens unparsed whatever it is given', faulty({ v3: () => ({ openUnparsedText: () => text }) })],
    [
      'opens unparsed what is malformed',
      faulty({
        v3: (key) => ({
          openUnparsedText: (token: string, aad: Uint8Array) =>
            key.openUnparsedText(token.replace(/=$/, ''), aad),
        }),
      }),
    ],
    [
      'binds no AAD where it does not parse',
      faulty({
        v3: (key) => ({
          openUnparsedText: (token: string) => key.openUnparsedText(token, Buffer.from('self-test')),
        }),
      }),
    ],
    ['gives other bytes unparsed', faulty({ v3: () => ({ openUnparsed: () => Buffer.from('another') }) })],
    ['reads another version', faulty({ core: { versionAtStart: () => 1 } })],
    ['opens v2 whatever it is', faulty({ v2: () => ({ openTokenText: () => text }) })],
    [
      'seals under the same nonce',
      faulty({
        v3: (key) => {
          let made: string | undefined
          return {
            sealToken: (...args: Parameters<V3Key['sealToken']>) => {
              made ??= key.sealToken(...args)
              return made
            },
          }
        },
      }),
    ],
    ['seals another text', faulty({ v2: (key) => ({ sealToken: () => key.sealToken('another') }) })],
    [
      'binds no AAD',
      faulty({
        v3: (key) => ({
          openTokenText: (token: ParsedToken) => key.openTokenText(token, Buffer.from('self-test')),
        }),
      }),
    ],
    [
      'unwraps under any AAD',
      faulty({
        v3: (key) => ({ unwrap: (wrapped: Uint8Array) => key.unwrap(wrapped, Buffer.from('self-test')) }),
      }),
    ],
    ['wraps zeros', faulty({ v2: (key) => ({ wrap: () => key.wrap(Buffer.alloc(32)) }) })],
    [
      'takes characters that are not of base64url',
      faulty({ core: { parse: (value) => javascriptCore.parse(value.replace(/[= ]+$/, '')) } }),
    ],
    [
      'has another version',
      faulty({
        core: {
          parse: (value) => {
            const parsed = javascriptCore.parse(value)
            return parsed && { ...parsed, version: 1 }
          },
        },
      }),
    ],
  ]
  it.each(wrong)('fails a core that %s', (_, core) => {
    expect(passesSelfTest(core)).toBe(false)
  })
})
