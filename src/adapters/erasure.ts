/** The states of an erasure that stores report. */
import type { ErasureState } from '../store.js'

export const ERASED: Required<ErasureState> = { erased: 'file', pending: null }

/** How an operator completes an erasure: the command that calls `StoreMaintenance.finishErasure`. */
export const FINISH_ERASURE = 'run `npx keystore doctor --finish-erasure`'

/** @param reason why bytes remain, and what to do */
export function pendingErasure(reason: string): Required<ErasureState> {
  return { erased: 'pending', pending: reason }
}
