/**
 * Events for monitoring. They carry ids, counts and durations, never a key, a token or a plaintext. Each event is published on the channel
 * `drizzle-keystore:TYPE` of node:diagnostics_channel, and passed to `onEvent`.
 */
import { type Channel, channel } from 'node:diagnostics_channel'
import { invalidArgument, type MasterKeyReason } from './errors.js'
import type { ShredReceipt } from './shred.js'
import type { KeyRef } from './table.js'
import { kindOf } from './validate.js'

/** A key, and the duration of the work in milliseconds. */
interface KeyEvent {
  readonly userId: string
  readonly version: number
  readonly kekId: string | null
  readonly durationMs: number
}

/** What a service or long work tells of: ids, counts and durations, and never a key, a token, a plaintext or a context. See `onEvent`. */
export type KeystoreEvent =
  /** A user's first key was made and stored. */
  | ({ readonly type: 'minted' } & KeyEvent)
  /** A stored key was unwrapped, since it was not cached. */
  | ({ readonly type: 'unwrapped' } & KeyEvent)
  /** A new version of a user's key was made and stored. */
  | ({ readonly type: 'rotated' } & KeyEvent)
  /** One page of `rewrapAll`: `count` more keys are wrapped under `kekId`. */
  | {
      readonly type: 'rewrapped'
      readonly kekId: string
      readonly count: number
      readonly durationMs: number
    }
  /** A user's keys were erased. */
  | ({ readonly type: 'shredded'; readonly durationMs: number } & ShredReceipt)
  /**
   * A well-formed token did not open: wrong key, context or user, or tampered with. `userId` is empty for the pool. `column` is the entry
   * `column` of the context, if it has one: that of encrypted columns is their name, and other entries are not shown.
   */
  | {
      readonly type: 'decryptFailed'
      readonly userId: string
      readonly version: number
      readonly format: 'v2' | 'v3'
      readonly column?: string
    }
  /**
   * A row's wrapped key does not open under the master key that it names, or `open` found one in format v2 where v2 is not accepted. Its
   * user's tokens cannot be decrypted.
   */
  | {
      readonly type: 'damagedKey'
      readonly userId: string
      readonly version: number
      readonly kekId: string | null
    }
  /**
   * Keys that this process has used, or that the key log names, are not in the store, and nobody pruned or shredded them: an older copy of
   * the store was put in its place, perhaps. `count` keys are missing; `users` has up to 10 of them. Also emitted, for one key, when a token
   * was given to a store that has no key at all.
   */
  | { readonly type: 'keysLost'; readonly users: readonly KeyRef[]; readonly count: number }
  /**
   * Rows need master keys that were not given, and `open` went on: because of `allowUnknownMasterKeys`, or because it is the root of one tenant, which
   * `tenantRoot` does not give, or else a sign that the primary is the wrong one.
   */
  | { readonly type: 'unknownMasterKey'; readonly kekIds: readonly (string | null)[] }
  /**
   * `open` has not looked at everything, because it would have taken too long: on Postgres a rewrap leaves entries in the index until a vacuum, and
   * a transaction that stays open keeps them. `kekIds`: under these no row was found in time, so none was opened as a sample. `others`: there may be rows
   * under further KEK ids, which a complete look would name. A row that was found has opened, so the master keys are this store's; but one that is missing
   * may be unnoticed until its users' calls fail. `keystore doctor` counts all rows; `VACUUM encryption_keys` ends it.
   */
  | { readonly type: 'partlyChecked'; readonly kekIds: readonly (string | null)[]; readonly others: boolean }
  /**
   * A master key did not do its work, when the service was opened or later: calls of its users fail with the same reason, and all others go
   * on. `providerCode` and `requestId` are the key service's, if it gave any.
   */
  | {
      readonly type: 'masterKeyUnavailable'
      readonly kekId: string
      readonly reason: MasterKeyReason
      readonly providerCode?: string
      readonly requestId?: string
    }
  /** The service was opened, or an adapter of an auth library started, with `plaintext: 'pass-through'`, which gives up integrity. */
  | { readonly type: 'plaintextPassThrough' }
  /**
   * The service was opened where `@drizzle-keystore/native` is installed and cannot be used, and `reason` says why. JavaScript does its work,
   * several times slower.
   */
  | { readonly type: 'nativeCore'; readonly reason: string }
  /** The store cannot announce changes for now. Rotations and shreds by other processes are noticed when cached keys expire (`cache.ttlMs`). */
  | { readonly type: 'changesSilent'; readonly reason: string }

/** Every type of event. */
export const EVENT_TYPES = Object.keys({
  minted: true,
  unwrapped: true,
  rotated: true,
  rewrapped: true,
  shredded: true,
  decryptFailed: true,
  damagedKey: true,
  keysLost: true,
  unknownMasterKey: true,
  partlyChecked: true,
  masterKeyUnavailable: true,
  plaintextPassThrough: true,
  nativeCore: true,
  changesSilent: true,
} satisfies Record<KeystoreEvent['type'], true>) as readonly KeystoreEvent['type'][]

export type EmitEvent = (event: KeystoreEvent) => void

export interface EventOptions {
  /** Called synchronously. An error that it throws becomes an uncaught exception, as with node:diagnostics_channel. The call goes on. */
  readonly onEvent?: ((event: KeystoreEvent) => void) | undefined
}

const channels = new Map<KeystoreEvent['type'], Channel>()

/** @throws ERR_INVALID_ARGUMENT */
export function eventEmitter({ onEvent }: EventOptions): EmitEvent {
  if (onEvent !== undefined && typeof onEvent !== 'function')
    throw invalidArgument(`onEvent must be a function, got ${kindOf(onEvent)}`)
  return (event) => {
    const published = diagnosticsChannel(event.type)
    if (published.hasSubscribers) published.publish(event)
    if (onEvent === undefined) return
    try {
      onEvent(event)
    } catch (error) {
      process.nextTick(() => {
        throw error
      })
    }
  }
}

function diagnosticsChannel(type: KeystoreEvent['type']): Channel {
  let found = channels.get(type)
  if (found === undefined) {
    found = channel(eventChannelName(type))
    channels.set(type, found)
  }
  return found
}

/** The name of an event's channel of node:diagnostics_channel. */
export function eventChannelName(type: KeystoreEvent['type']): string {
  return `drizzle-keystore:${type}`
}

/** Milliseconds since a value of `performance.now()`. */
export function durationSince(start: number): number {
  return performance.now() - start
}
