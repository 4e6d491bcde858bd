/** What stores say about erased bytes. */
import type { ErasureState } from '../store.js'

export const ERASED: Required<ErasureState> = { erased: 'file', pending: null }

/** The step that completes an erasure: `StoreMaintenance.finishErasure`, on the command line. */
export const FINISH_ERASURE = 'run `keystore doctor --finish-erasure`'

/** @param reason why, and what to do */
export function pendingErasure(reason: string): Required<ErasureState> {
  return { erased: 'pending', pending: reason }
}
