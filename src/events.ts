/**
 * What the library tells its host while it goes on: ids, counts and durations, never a key, a token or a plaintext. Each event is
 * published on the channel `drizzle-keystore:TYPE` of node:diagnostics_channel, and given to `onEvent`.
 */
import { type Channel, channel } from 'node:diagnostics_channel'
import { invalidArgument } from './errors.js'
import type { ShredReceipt } from './shred.js'
import { kindOf } from './validate.js'

/** A key, and how long the work took, in milliseconds. */
interface KeyEvent {
  readonly userId: string
  readonly version: number
  readonly kekId: string | null
  readonly durationMs: number
}

export type KeystoreEvent =
  /** A user's first key was made and stored. */
  | ({ readonly type: 'minted' } & KeyEvent)
  /** A stored key was opened: what the cache did not have. */
  | ({ readonly type: 'unwrapped' } & KeyEvent)
  /** A new version of a user's key was made and stored. */
  | ({ readonly type: 'rotated' } & KeyEvent)
  /** One page of `rewrapAll`: so many keys are wrapped under `kekId` now. */
  | {
      readonly type: 'rewrapped'
      readonly kekId: string
      readonly count: number
      readonly durationMs: number
    }
  /** A user's keys were erased. */
  | ({ readonly type: 'shredded'; readonly durationMs: number } & ShredReceipt)
  /** A well-formed token did not open: wrong key, context or user, or tampered with. `userId` is empty for the pool. */
  | {
      readonly type: 'decryptFailed'
      readonly userId: string
      readonly version: number
      readonly format: 'v2' | 'v3'
    }
  /** A row's wrapped key does not open under the master key that it names. Its user's tokens cannot be decrypted. */
  | {
      readonly type: 'damagedKey'
      readonly userId: string
      readonly version: number
      readonly kekId: string | null
    }
  /** `open` went on, as `allowUnknownMasterKeys` says, though rows need master keys that were not given. */
  | { readonly type: 'unknownMasterKey'; readonly kekIds: readonly (string | null)[] }
  /** `decrypt` returns values that are no tokens as they are: integrity is given up. */
  | { readonly type: 'plaintextPassThrough' }
  /** Rotations and shreds by other processes are not told of for now: they are seen when cached keys expire (`cache.ttlMs`). */
  | { readonly type: 'changesSilent'; readonly reason: string }

export type EmitEvent = (event: KeystoreEvent) => void

export interface EventOptions {
  /** Called synchronously. What it throws becomes an uncaught exception, as with node:diagnostics_channel, and disturbs nothing here. */
  readonly onEvent?: ((event: KeystoreEvent) => void) | undefined
}

const channels = new Map<KeystoreEvent['type'], Channel>()

/** @throws ERR_INVALID_ARGUMENT */
export function eventEmitter({ onEvent }: EventOptions): EmitEvent {
  if (onEvent !== undefined && typeof onEvent !== 'function')
    throw invalidArgument(`onEvent must be a function, got ${kindOf(onEvent)}`)
  return (event) => {
    const published = channelOf(event.type)
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

function channelOf(type: KeystoreEvent['type']): Channel {
  let found = channels.get(type)
  if (found === undefined) {
    found = channel(`drizzle-keystore:${type}`)
    channels.set(type, found)
  }
  return found
}

/** Since a moment of `performance.now()`, in milliseconds. */
export function durationSince(start: number): number {
  return performance.now() - start
}
