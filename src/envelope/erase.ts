/** Erasing an owner's keys: in the store, in this process, and for monitoring. */
import { isTurnDue, nextTurn } from '../event-loop.js'
import { durationSince, type EmitEvent } from '../events.js'
import type { KeyCache } from '../keys/cache.js'
import { type ShredReceipt, type ShredUserOptions, shredIn } from '../shred.js'
import type { KeyStore } from '../store.js'
import { ownOptions } from '../validate.js'

/** @param keys what this process has of the owner's kind of keys */
export async function eraseKeys(
  store: KeyStore,
  keys: Pick<KeyCache, 'shredded' | 'mayHaveChanged'>,
  emit: EmitEvent,
  ownerId: string,
  options: ShredUserOptions,
): Promise<ShredReceipt> {
  const { forget } = ownOptions(options)
  if (isTurnDue()) await nextTurn()
  const start = performance.now()
  let receipt: ShredReceipt
  try {
    receipt = await shredIn(store, ownerId, { forget })
  } catch (error) {
    // It may be done all the same: nothing more may be encrypted under what is in memory.
    keys.mayHaveChanged(ownerId)
    throw error
  }
  keys.shredded(ownerId, receipt.forget)
  emit({ type: 'shredded', ...receipt, durationMs: durationSince(start) })
  return receipt
}
