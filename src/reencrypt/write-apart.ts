/** Writes changes so that one which the database refuses names itself, and takes none of the others along. */
import { isKeystoreError } from '../errors.js'
import { nextTurn } from '../event-loop.js'
import { keyText, type ValueRef } from '../sources/value-source.js'

interface Writer<Change> {
  /** The column that a change is written to, if it is not its own: changes of one row and column are written together. */
  containerOf?(change: Change): string | undefined
  write(changes: readonly Change[]): Promise<void>
  /** A change that was refused, also when it was written without those of other rows. */
  refused(change: Change, error: unknown): void
}

/**
 * Writes the changes of one column after the other: a source may have written those of one before another's are refused. If a row refuses
 * its change, they are tried again in halves.
 *
 * @throws what `write` throws, unless it is about single rows
 */
export async function writeApart<Change extends Pick<ValueRef, 'key' | 'column'>>(
  changes: readonly Change[],
  writer: Writer<Change>,
): Promise<void> {
  const columns = new Map<string, Map<string, Change[]>>()
  for (const change of changes) {
    const column = writer.containerOf?.(change) ?? change.column
    const wholes = columns.get(column) ?? new Map<string, Change[]>()
    columns.set(column, wholes)
    const key = keyText(change.key)
    const whole = wholes.get(key)
    if (whole === undefined) wholes.set(key, [change])
    else whole.push(change)
  }
  for (const wholes of columns.values()) await writeHalves([...wholes.values()], writer)
}

async function writeHalves<Change>(
  wholes: readonly (readonly Change[])[],
  writer: Writer<Change>,
): Promise<void> {
  try {
    await writer.write(wholes.flat())
  } catch (error) {
    if (!isRefusedByRow(error)) throw error
    if (wholes.length === 1) {
      for (const change of wholes.flat()) writer.refused(change, error)
      return
    }
    await nextTurn()
    const middle = wholes.length >> 1
    await writeHalves(wholes.slice(0, middle), writer)
    await writeHalves(wholes.slice(middle), writer)
  }
}

/**
 * SQLSTATE classes 23 (integrity constraint violation), P0 (raised in PL/pgSQL) and 22 (data exception, as a trigger's cast), but for a
 * column that is too narrow, and for the division by zero of values that a trigger alters: these end the sweep.
 */
const REFUSED_BY_ROW = /^(SQLITE_CONSTRAINT|23|P0|22(?!001|012))/

/** Mostly a CHECK, a trigger, or the unique index of fingerprints: two rows hold the same value. */
function isRefusedByRow(error: unknown): boolean {
  if (!isKeystoreError(error) || error.code !== 'ERR_STORE' || !(error.cause instanceof Error)) return false
  return REFUSED_BY_ROW.test(String(Reflect.get(error.cause, 'code')))
}
