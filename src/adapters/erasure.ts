/** The states of an erasure that stores report. */
import type { ErasureState } from '../store.js'

export const ERASED: Required<ErasureState> = { erased: 'file', pending: null }

/** The beginning of {@link FINISH_ERASURE}, which the command line leaves out: it has no store to call. */
export const CALL_FINISH_ERASURE = 'call `store.maintenance.finishErasure()`, or '

/** How an erasure is completed: by the application, or by the command, which calls the same. */
export const FINISH_ERASURE = `${CALL_FINISH_ERASURE}run \`npx keystore doctor --finish-erasure\``

/** Why erased keys may still be elsewhere. @param copiers what of the database's may copy rows: `trigger audit` */
export function copiedBy(copiers: readonly string[]): string {
  return (
    `Rows of the table may be copied elsewhere, where an erasure does not reach them, by ${copiers.join(', ')}: erase wrapped keys there ` +
    'too, and leave our table out of it'
  )
}

/** @param reason why bytes remain, and what to do */
export function pendingErasure(reason: string): Required<ErasureState> {
  return { erased: 'pending', pending: reason }
}
