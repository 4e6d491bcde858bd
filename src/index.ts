/** drizzle-keystore: the whole core API. Adapters have entries of their own, so that who uses SQLite never loads pg. */

export { type JsonlSourceOptions, type JsonRow, jsonlSource } from './adapters/jsonl-source.js'
export { reseed } from './aead.js'
export type { ColumnContext, ContextOf } from './column-context.js'
export {
  type DrizzleDb,
  type DrizzleRow,
  type DrizzleSourceOptions,
  drizzleSource,
} from './drizzle/drizzle-source.js'
export type { DrizzleTable } from './drizzle/drizzle-table.js'
export {
  defineEncrypted,
  type EncryptedRegistry,
  type EncryptedTable,
  type EncryptedTableOptions,
} from './drizzle/registry.js'
export { type DecryptItem, type EncryptItem, EnvelopeCrypto, type UserOptions } from './envelope-crypto.js'
export type { EnvelopeCryptoOptions } from './envelope-options.js'
export {
  KeystoreError,
  type KeystoreErrorCode,
  type KeystoreErrorOptions,
  MasterKeyError,
  StoreError,
} from './errors.js'
export type { KeystoreEvent } from './events.js'
export type { FingerprintOptions } from './fingerprint.js'
export type { ItemResult } from './item-result.js'
export type { Rotation } from './key-cache.js'
export type { CacheOptions, CacheStats } from './key-memory.js'
export { census, type MasterKeyUse } from './lifecycle/census.js'
export { type CopyOptions, type CopyReport, copyKeys } from './lifecycle/copy.js'
export type { LongWorkOptions, Progress, RowFailure } from './lifecycle/long-work.js'
export { type RewrapOptions, type RewrapReport, rewrapAll } from './lifecycle/rewrap.js'
export {
  type PruneOptions,
  pruneRetired,
  type RotateReport,
  type RotateWhereOptions,
  rotateWhere,
} from './lifecycle/rotate.js'
export { applyShredLog } from './lifecycle/shred-log.js'
export { type Finding, type VerifyOptions, type VerifyReport, verifyAll } from './lifecycle/verify.js'
export {
  derivePoolKey,
  type Environment,
  generateMasterKey,
  type LocalMasterKey,
  localMasterKey,
  type MasterKey,
  type MasterKeyring,
  masterKeyring,
  masterKeysFromEnv,
  masterKeysFromFile,
  resolveMasterKey,
} from './master-key.js'
export type { PoolCrypto } from './pool-crypto.js'
export type { LegacyReader, LegacyValue, ValueState } from './reencrypt/open-value.js'
export { type ReencryptOptions, type ReencryptReport, reencrypt } from './reencrypt/reencrypt.js'
export type { StateCounts, ValueFailure } from './reencrypt/tally.js'
export {
  decryptRows,
  encryptRows,
  type RowError,
  type RowsOptions,
  type RowsResult,
  type RowWith,
} from './rows.js'
export { Secret } from './secret.js'
export type { ShredLog, ShredReceipt, ShredUserOptions } from './shred.js'
export type {
  CensusRow,
  DatedCensusRow,
  ErasureState,
  KeyPage,
  KeyRecord,
  KeyRef,
  KeyStore,
  ShredOptions,
  ShredResult,
  StoreChange,
  StoreFinding,
  StoreMaintenance,
  WrapChange,
} from './store.js'
export {
  apiKeyHash,
  decryptWithKey,
  encryptWithKey,
  type Format,
  isEncrypted,
  isToken,
  type Token,
} from './token.js'
export type { EncryptOptions, PlaintextPolicy } from './token-policy.js'
export type { UserHandle } from './user-handle.js'
export type { EncryptionContext } from './validate.js'
export type {
  SourceColumns,
  ValueCell,
  ValueChange,
  ValueKey,
  ValueRef,
  ValueSource,
} from './value-source.js'
