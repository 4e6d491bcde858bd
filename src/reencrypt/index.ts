/** drizzle-keystore/reencrypt: the sweep that re-encrypts stored values, and the sources that it reads them from. */

export {
  type DrizzleDb,
  type DrizzleRow,
  type DrizzleSourceOptions,
  drizzleSource,
} from '../drizzle/drizzle-source.js'
export type { DrizzleTable } from '../drizzle/drizzle-table.js'
export {
  defineEncrypted,
  type EncryptedRegistry,
  type EncryptedTable,
  type EncryptedTableOptions,
} from '../drizzle/registry.js'
export type { SourceFinding, SourceFindingKind } from '../sources/finding.js'
export { type JsonlSourceOptions, type JsonRow, jsonlSource } from '../sources/jsonl.js'
export type { OwnerOf } from '../sources/owner.js'
export { type SqlRow, type SqlSource, type SqlSourceOptions, sqlSource } from '../sources/sql.js'
export type {
  FingerprintChange,
  FingerprintRole,
  SourceColumns,
  ValueCell,
  ValueChange,
  ValueKey,
  ValueRef,
  ValueSource,
} from '../sources/value-source.js'
export { type AesPartsReaderOptions, aesPartsReader } from './legacy/aes-parts.js'
export { type BetterAuthReaderOptions, betterAuthReader } from './legacy/better-auth.js'
export { type CloakReaderOptions, cloakReader } from './legacy/cloak.js'
export { type N8nReaderOptions, n8nReader } from './legacy/n8n.js'
export { type PayloadReaderOptions, payloadReader } from './legacy/payload.js'
export type { LegacyReader, LegacyValue } from './legacy/reader.js'
export type { ValueState } from './open-value.js'
export type { OwnerReport } from './owner-count.js'
export { type ReencryptOptions, type ReencryptReport, reencrypt } from './reencrypt.js'
export type { StateCounts, ValueFailure } from './tally.js'
