/** Turns rows into one array for each column, which the statements unnest. */
import { arrayLiteral } from '../../../drivers/postgres-array.js'
import { isoText } from '../../../iso-time.js'
import type { CensusOptions, WrapChange } from '../../../store.js'
import type { KeyRecord, KeyRef } from '../../../table.js'

export function refArrays(refs: readonly KeyRef[]) {
  return {
    ids: arrayLiteral(refs.map(({ userId }) => userId)),
    versions: arrayLiteral(refs.map(({ version }) => version)),
  }
}

export function recordArrays(records: readonly KeyRecord[]) {
  return {
    ...refArrays(records),
    encryptedKeys: arrayLiteral(records.map(({ encryptedKey }) => hex(encryptedKey))),
    kekIds: arrayLiteral(records.map(({ kekId }) => kekId)),
    createdAt: arrayLiteral(records.map(({ createdAt }) => isoText(createdAt))),
    wrappedAt: arrayLiteral(records.map(({ wrappedAt }) => wrappedAt && isoText(wrappedAt))),
    shreddedAt: arrayLiteral(records.map(({ shreddedAt }) => shreddedAt && isoText(shreddedAt))),
  }
}

export function changeArrays(changes: readonly WrapChange[]) {
  return {
    ...refArrays(changes),
    from: arrayLiteral(changes.map(({ from }) => hex(from))),
    encryptedKeys: arrayLiteral(changes.map(({ encryptedKey }) => hex(encryptedKey))),
    kekIds: arrayLiteral(changes.map(({ kekId }) => kekId)),
    wrappedAt: arrayLiteral(changes.map(({ wrappedAt }) => isoText(wrappedAt))),
  }
}

/** The arrays of `whileLive`, beside {@link changeArrays} or {@link recordArrays}. */
export function liveArrays(rows: readonly Pick<WrapChange, 'whileLive'>[]) {
  return {
    liveIds: arrayLiteral(rows.map(({ whileLive }) => whileLive?.userId ?? null)),
    liveVersions: arrayLiteral(rows.map(({ whileLive }) => whileLive?.version ?? null)),
    liveCreatedAt: arrayLiteral(rows.map(({ whileLive }) => whileLive?.createdAt.toISOString() ?? null)),
  }
}

/** The placeholder `:named` of `countRows`. */
export function namedKekIds({ rootIds = [] }: CensusOptions): string {
  return arrayLiteral(rootIds)
}

/** Hexadecimal, because drivers differ in how they pass an array of bytes. */
function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')
}
