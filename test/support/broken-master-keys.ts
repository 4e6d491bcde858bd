/** A key service in this process, and master keys that break their contract, each in one way. */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import { type MasterKey, MasterKeyError } from '../../src/index.js'
import type { MasterKeySubject, OpenedMasterKey } from '../../src/testing/index.js'

const PIN = 'the-pin-of-the-token'

/** A key service in this process: AES-256-GCM with AAD. */
class Service {
  readonly keys = new Map<string, Buffer>()
  down = false
  async seal(id: string, plain: Uint8Array, aad: Uint8Array): Promise<Buffer> {
    const iv = randomBytes(12)
    const cipher = createCipheriv('aes-256-gcm', this.#key(id), iv).setAAD(aad)
    const body = Buffer.concat([cipher.update(plain), cipher.final()])
    return Buffer.concat([iv, body, cipher.getAuthTag()])
  }
  /** @returns null if it does not open */
  async open(id: string, sealed: Uint8Array, aad: Uint8Array): Promise<Buffer | null> {
    if (sealed.length < 28) return null
    const decipher = createDecipheriv('aes-256-gcm', this.#key(id), sealed.subarray(0, 12)).setAAD(aad)
    decipher.setAuthTag(sealed.subarray(-16))
    const plain = decipher.update(sealed.subarray(12, -16))
    try {
      decipher.final()
      return plain
    } catch {
      return null
    }
  }
  #key(id: string): Buffer {
    if (this.down) throw new MasterKeyError('ERR_MASTER_KEY', 'No answer', { reason: 'unavailable' })
    const key = this.keys.get(id) ?? randomBytes(32)
    this.keys.set(id, key)
    return key
  }
}

function refused(): MasterKeyError {
  return new MasterKeyError('ERR_UNWRAP_FAILED', 'The wrapped key does not open')
}

/** A key that holds the contract. */
function goodKey(service: Service, id: string): MasterKey {
  return {
    id,
    wrap: (dataKey, aad) => service.seal(id, dataKey, aad),
    async unwrap(wrapped, aad) {
      const dataKey = await service.open(id, wrapped, aad)
      if (dataKey === null) throw refused()
      return dataKey
    },
  }
}

type Breaking = (good: MasterKey, service: Service) => Partial<MasterKey> & object

/** @param breaking what is different in a key that breaks the contract */
export function masterKeySubject(breaking: Breaking = () => ({})): MasterKeySubject {
  return {
    name: 'a service of the test',
    async open(): Promise<OpenedMasterKey> {
      const service = new Service()
      const make = (id: string): MasterKey => {
        const good = goodKey(service, id)
        return Object.defineProperties({ ...good }, Object.getOwnPropertyDescriptors(breaking(good, service)))
      }
      return {
        masterKey: make('service:a'),
        again: async () => make('service:a'),
        other: async () => make('service:b'),
        secrets: [PIN],
        failures: {
          unavailable: async () => {
            service.down = true
            return async () => {
              service.down = false
            }
          },
        },
      }
    },
  }
}

const isOf = (code: string) => (error: unknown) =>
  error instanceof Error && 'code' in error && error.code === code
const isRefusal = isOf('ERR_UNWRAP_FAILED')
const empty = new Uint8Array(0)

/** Keys that break the contract, each in one way. */
export const BROKEN_MASTER_KEYS: Readonly<Record<string, Breaking>> = {
  'has an empty id': () => ({ id: '' }),
  'has a blank id': () => ({ id: ' ' }),
  'has a new id in each process': () => ({ id: `service:${randomBytes(8).toString('hex')}` }),
  'has one id for all keys': () => ({ id: 'service:' }),
  'has an id that Postgres does not store': ({ id }) => ({ id: `${id}\0` }),
  'has an id with a lone surrogate': ({ id }) => ({ id: `${id}\ud800` }),
  "has an id of the keystore's own": ({ id }) => ({ id: `tenant:1:${id}` }),
  'changes its id when it is used': ({ id, wrap }) => {
    let uses = 0
    return {
      get id() {
        return uses === 0 ? id : `${id}:${uses}`
      },
      wrap: (...call) => {
        uses += 1
        return wrap(...call)
      },
    }
  },
  'has no time': () => ({ timeLimitMs: 0 }),
  'returns the key as its wrap': () => ({
    wrap: (dataKey: Uint8Array) => Uint8Array.from(dataKey),
    unwrap: (wrapped: Uint8Array) => Uint8Array.from(wrapped),
  }),
  'has the key in its wrap': ({ wrap, unwrap }) => ({
    wrap: async (dataKey, aad, owner) => Buffer.concat([await wrap(dataKey, aad, owner), dataKey]),
    unwrap: (wrapped, aad, owner) => unwrap(wrapped.subarray(0, -32), aad, owner),
  }),
  'wraps nothing': () => ({ wrap: () => empty }),
  'returns text': ({ wrap }) => ({
    wrap: async (...call) => Buffer.from(await wrap(...call)).toString('base64') as unknown as Uint8Array,
  }),
  'returns null for what does not open': ({ unwrap }) => ({
    unwrap: async (...call) => {
      try {
        return await unwrap(...call)
      } catch (error) {
        if (isRefusal(error)) return null as unknown as Uint8Array
        throw error
      }
    },
  }),
  'returns zeros for what does not open': ({ unwrap }) => ({
    unwrap: async (...call) => {
      try {
        return await unwrap(...call)
      } catch (error) {
        if (isRefusal(error)) return new Uint8Array(32)
        throw error
      }
    },
  }),
  'returns 31 bytes': ({ unwrap }) => ({ unwrap: async (...call) => (await unwrap(...call)).slice(1) }),
  'cannot open in another process': ({ wrap, unwrap }) => {
    const own = randomBytes(1)
    return {
      wrap: (dataKey, aad, owner) => wrap(dataKey, Buffer.concat([aad, own]), owner),
      unwrap: (wrapped, aad, owner) => unwrap(wrapped, Buffer.concat([aad, own]), owner),
    }
  },
  'wraps equal keys alike': ({ wrap }) => {
    const seen = new Map<string, Promise<Uint8Array>>()
    return {
      wrap: async (dataKey, aad, owner) => {
        const name = Buffer.concat([dataKey, aad]).toString('hex')
        const made = seen.get(name) ?? Promise.resolve(wrap(dataKey, aad, owner))
        seen.set(name, made)
        return Uint8Array.from(await made)
      },
    }
  },
  'does not check the first byte': ({ wrap, unwrap }) => ({
    wrap: async (...call) => Buffer.concat([Uint8Array.of(4), await wrap(...call)]),
    unwrap: (wrapped, aad, owner) => unwrap(wrapped.subarray(1), aad, owner),
  }),
  'ignores bytes at the end': ({ unwrap }) => ({
    unwrap: (wrapped, aad, owner) => unwrap(wrapped.subarray(0, 60), aad, owner),
  }),
  'ignores one bit in the middle': ({ unwrap }) => ({
    unwrap: async (wrapped, aad, owner) => {
      try {
        return await unwrap(wrapped, aad, owner)
      } catch (error) {
        if (!isRefusal(error) || wrapped.length !== 60) throw error
        return unwrap(
          wrapped.map((byte, i) => (i === 30 ? byte ^ (1 << (30 % 8)) : byte)),
          aad,
          owner,
        )
      }
    },
  }),
  'ignores the AAD': ({ wrap, unwrap }) => ({
    wrap: (dataKey, _, owner) => wrap(dataKey, empty, owner),
    unwrap: (wrapped, _, owner) => unwrap(wrapped, empty, owner),
  }),
  'binds the beginning of the AAD only': ({ wrap, unwrap }) => ({
    wrap: (dataKey, aad, owner) => wrap(dataKey, aad.subarray(0, 1024), owner),
    unwrap: (wrapped, aad, owner) => unwrap(wrapped, aad.subarray(0, 1024), owner),
  }),
  'refuses a long AAD': ({ wrap }) => ({
    wrap: (dataKey, aad, owner) => {
      if (aad.length > 1024) throw new MasterKeyError('ERR_MASTER_KEY', 'Too long', { reason: 'denied' })
      return wrap(dataKey, aad, owner)
    },
  }),
  'refuses an empty AAD': ({ wrap }) => ({
    wrap: (dataKey, aad, owner) => {
      if (aad.length === 0) throw new MasterKeyError('ERR_MASTER_KEY', 'Empty', { reason: 'denied' })
      return wrap(dataKey, aad, owner)
    },
  }),
  'wraps every key with the same key': (_, service) => ({
    wrap: (dataKey, aad) => service.seal('shared', dataKey, aad),
    unwrap: async (wrapped, aad) => {
      const dataKey = await service.open('shared', wrapped, aad)
      if (dataKey === null) throw refused()
      return dataKey
    },
  }),
  'binds nothing for the pool': ({ wrap }) => ({
    wrap: (dataKey, aad, owner) => wrap(dataKey, owner.userId === '' ? empty : aad, owner),
  }),
  'cannot wrap tenants': ({ wrap }) => ({
    wrap: (dataKey, aad, owner) => {
      if (owner.tenantId !== null) throw new TypeError('no tenants')
      return wrap(dataKey, aad, owner)
    },
  }),
  'changes the owner': ({ wrap }) => ({
    wrap: (dataKey, aad, owner) => {
      Object.assign(owner, { userId: '' })
      return wrap(dataKey, aad, owner)
    },
  }),
  'gives the same array again': ({ unwrap }) => {
    const cached = new Map<string, Uint8Array>()
    return {
      unwrap: async (wrapped, aad, owner) => {
        const name = `${Buffer.from(wrapped).toString('hex')} ${Buffer.from(aad).toString('hex')}`
        const dataKey = cached.get(name) ?? (await unwrap(wrapped, aad, owner))
        cached.set(name, dataKey)
        return dataKey
      },
    }
  },
  'gives all wraps in one buffer': ({ wrap }) => {
    const shared = Buffer.alloc(60)
    return {
      wrap: async (...call) => {
        shared.set(await wrap(...call))
        return shared
      },
    }
  },
  'keeps the data key it was given': ({ wrap, unwrap }) => {
    const kept = new Map<string, Uint8Array>()
    return {
      wrap: async (dataKey, aad, owner) => {
        const wrapped = await wrap(dataKey, aad, owner)
        kept.set(Buffer.from(wrapped).toString('hex'), dataKey)
        return wrapped
      },
      unwrap: async (wrapped, aad, owner) => {
        const dataKey = await unwrap(wrapped, aad, owner)
        return Uint8Array.from(kept.get(Buffer.from(wrapped).toString('hex')) ?? dataKey)
      },
    }
  },
  'wipes the data key it was given': ({ wrap }) => ({
    wrap: async (dataKey, aad, owner) => {
      const wrapped = await wrap(dataKey, aad, owner)
      dataKey.fill(0)
      return wrapped
    },
  }),
  'wipes the wrapped bytes': ({ unwrap }) => ({
    unwrap: async (wrapped, aad, owner) => {
      const dataKey = await unwrap(wrapped, aad, owner)
      wrapped.fill(0)
      return dataKey
    },
  }),
  'reads the buffer beneath an array': ({ wrap }) => ({
    wrap: (dataKey, aad, owner) => wrap(new Uint8Array(dataKey.buffer).slice(0, 32), aad, owner),
  }),
  'mixes up calls at once': ({ unwrap }) => {
    let last: readonly [Uint8Array, Uint8Array] | undefined
    return {
      unwrap: async (wrapped, aad, owner) => {
        last = [wrapped, aad]
        await undefined
        return unwrap(...last, owner)
      },
    }
  },
  'fails when many call at once': ({ wrap }) => {
    let running = 0
    return {
      wrap: async (...call) => {
        running += 1
        try {
          if (running > 20) throw new MasterKeyError('ERR_MASTER_KEY', 'Busy', { reason: 'throttled' })
          await undefined
          return await wrap(...call)
        } finally {
          running -= 1
        }
      },
    }
  },
  'is stuck after calls that failed': ({ unwrap }) => {
    let failed = 0
    return {
      unwrap: async (...call) => {
        try {
          if (failed > 20) throw refused()
          return await unwrap(...call)
        } catch (error) {
          failed += 1
          throw error
        }
      },
    }
  },
  'throws a plain Error': ({ unwrap }) => ({
    unwrap: async (...call) => {
      try {
        return await unwrap(...call)
      } catch (error) {
        throw isRefusal(error) ? new Error('does not open') : error
      }
    },
  }),
  'takes a changed wrap for an outage': ({ unwrap }) => ({
    unwrap: async (...call) => {
      try {
        return await unwrap(...call)
      } catch (error) {
        throw isRefusal(error) ? new MasterKeyError('ERR_MASTER_KEY', '…', { reason: 'unavailable' }) : error
      }
    },
  }),
  'calls a refusal retryable': ({ unwrap }) => ({
    unwrap: async (...call) => {
      try {
        return await unwrap(...call)
      } catch (error) {
        throw isRefusal(error) ? new MasterKeyError('ERR_UNWRAP_FAILED', '…', { retryable: true }) : error
      }
    },
  }),
  'takes an outage for a changed wrap': ({ unwrap }) => ({
    unwrap: async (...call) => {
      try {
        return await unwrap(...call)
      } catch {
        throw refused()
      }
    },
  }),
  'gives no reason for an outage': ({ wrap }) => ({
    wrap: async (...call) => {
      try {
        return await wrap(...call)
      } catch {
        throw new MasterKeyError('ERR_MASTER_KEY', 'No answer', { retryable: true })
      }
    },
  }),
  'stays down after an outage': ({ wrap }) => {
    let wasDown = false
    return {
      wrap: async (...call) => {
        try {
          if (wasDown) throw new MasterKeyError('ERR_MASTER_KEY', 'No answer', { reason: 'unavailable' })
          return await wrap(...call)
        } catch (error) {
          wasDown = true
          throw error
        }
      },
    }
  },
  'names the user in an error': ({ unwrap }) => ({
    unwrap: async (wrapped, aad, owner) => {
      try {
        return await unwrap(wrapped, aad, owner)
      } catch (error) {
        throw isRefusal(error) ? new MasterKeyError('ERR_UNWRAP_FAILED', `Of ${owner.userId}`) : error
      }
    },
  }),
  "has the client's error as cause": ({ unwrap }) => ({
    unwrap: async (wrapped, aad, owner) => {
      try {
        return await unwrap(wrapped, aad, owner)
      } catch (error) {
        const cause = Object.assign(new Error('request failed'), {
          body: Buffer.from(aad).toString('base64'),
        })
        throw isRefusal(error) ? new MasterKeyError('ERR_UNWRAP_FAILED', '…', { cause }) : error
      }
    },
  }),
  'has the PIN as a property': () => ({ pin: PIN }),
  'has the last data key as a property': ({ wrap }) => {
    const key: { last?: Uint8Array } & Partial<MasterKey> = {
      wrap(dataKey, aad, owner) {
        Object.assign(this, { last: Uint8Array.from(dataKey) })
        return wrap(dataKey, aad, owner)
      },
    }
    return key
  },
}
