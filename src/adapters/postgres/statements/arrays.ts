/** Turns rows into one array for each column, which the statements unnest. */
import type { WrapChange } from '../../../store.js'
import type { KeyRecord, KeyRef } from '../../../table.js'

export function refArrays(refs: readonly KeyRef[]) {
  return {
    ids: refs.map(({ userId }) => userId),
    versions: refs.map(({ version }) => version),
  }
}

export function recordArrays(records: readonly KeyRecord[]) {
  return {
    ...refArrays(records),
    encryptedKeys: records.map(({ encryptedKey }) => hex(encryptedKey)),
    kekIds: records.map(({ kekId }) => kekId),
    createdAt: records.map(({ createdAt }) => createdAt.toISOString()),
    wrappedAt: records.map(({ wrappedAt }) => wrappedAt?.toISOString() ?? null),
    shreddedAt: records.map(({ shreddedAt }) => shreddedAt?.toISOString() ?? null),
  }
}

export function changeArrays(changes: readonly WrapChange[]) {
  return {
    ...refArrays(changes),
    from: changes.map(({ from }) => hex(from)),
    encryptedKeys: changes.map(({ encryptedKey }) => hex(encryptedKey)),
    kekIds: changes.map(({ kekId }) => kekId),
    wrappedAt: changes.map(({ wrappedAt }) => wrappedAt.toISOString()),
  }
}

/** Hexadecimal, because drivers differ in how they pass an array of bytes. */
function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')
}
