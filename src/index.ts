/** drizzle-keystore: the crypto service, master keys and the lifecycle of keys. It loads no adapter, driver or Drizzle. */

export type {
  DecryptItem,
  EncryptItem,
  ItemResult,
  PoolDecryptItem,
  PoolEncryptItem,
} from './envelope/bulk.js'
export { EnvelopeCrypto } from './envelope/envelope-crypto.js'
export type { EnvelopeCryptoOptions } from './envelope/options.js'
export type { PoolCrypto } from './envelope/pool-crypto.js'
export {
  decryptRows,
  encryptRows,
  type RowError,
  type RowsOptions,
  type RowsResult,
  type RowWith,
} from './envelope/rows.js'
export { Secret } from './envelope/secret.js'
export type { EncryptOptions, PlaintextPolicy } from './envelope/token-policy.js'
export {
  isUnreadable,
  type OnUnreadable,
  type Unreadable,
  type UnreadableValue,
} from './envelope/unreadable.js'
export type { ScopeOptions, UserHandle, UserOptions } from './envelope/user-handle.js'
export {
  KeystoreError,
  type KeystoreErrorCode,
  type KeystoreErrorOptions,
  MasterKeyError,
  type MasterKeyErrorOptions,
  type MasterKeyReason,
  StoreError,
} from './errors.js'
export type { KeystoreEvent } from './events.js'
export { reseed } from './format/aead.js'
export { type CryptoCore, cryptoCore } from './format/chosen-core.js'
export type { ColumnContext, ContextOf, EncryptionContext } from './format/context.js'
export type { FingerprintOptions, NormalizeStep } from './format/fingerprint.js'
export type { Format } from './format/formats.js'
export {
  apiKeyHash,
  decryptWithKey,
  encryptWithKey,
  isEncrypted,
  isToken,
  type Token,
} from './format/token.js'
export type { KeyLog, KeyLogEntry } from './key-log/entry.js'
export { applyKeyLog } from './key-log/erasures.js'
export { loggedStore } from './key-log/logged-store.js'
export { findLostKeys, type LostKey, type LostKeys } from './key-log/lost-keys.js'
export { type RecordKeysOptions, type RecordKeysReport, recordKeys } from './key-log/record-keys.js'
export type { Rotation } from './keys/cache.js'
export type { CacheOptions, CacheStats } from './keys/cache-options.js'
export type { TenantMove, TenantRotation } from './keys/tenants.js'
export { census, type MasterKeyUse } from './lifecycle/census.js'
export type { CopyOnly } from './lifecycle/copied-rows.js'
export {
  type ConflictingRow,
  type CopyConflict,
  type CopyOptions,
  type CopyReport,
  copyKeys,
} from './lifecycle/copy.js'
export type { LongWorkOptions, Progress, RowFailure } from './lifecycle/long-work.js'
export {
  type PruneOptions,
  type PruneReport,
  type PruneWhereOptions,
  pruneRetired,
  pruneWhere,
} from './lifecycle/prune.js'
export {
  type PrunedTenants,
  type PruneTenantOptions,
  type PruneUnusedTenantsOptions,
  pruneTenantKey,
  pruneUnusedTenants,
} from './lifecycle/prune-tenants.js'
export { type RewrapOptions, type RewrapReport, rewrapAll } from './lifecycle/rewrap.js'
export {
  type RotateReport,
  type RotateWhereOptions,
  rotateWhere,
} from './lifecycle/rotate.js'
export { findTenant, listTenants, type TenantKeyState, type TenantState } from './lifecycle/tenants.js'
export { type Finding, type VerifyOptions, type VerifyReport, verifyAll } from './lifecycle/verify.js'
export {
  masterKeysFromEnv,
  masterKeysFromFile,
  resolveMasterKey,
} from './master-keys/environment.js'
export {
  type MasterKeyring,
  type MasterKeyringOptions,
  masterKeyring,
  type TenantOf,
  type TenantRoot,
} from './master-keys/keyring.js'
export { derivePoolKey, generateMasterKey, type LocalMasterKey, localMasterKey } from './master-keys/local.js'
export type { KeyOwner, MasterKey } from './master-keys/master-key.js'
export type { Environment } from './master-keys/variables.js'
export type { ShredReceipt, ShredUserOptions } from './shred.js'
export type {
  CensusOptions,
  CensusRow,
  DatedCensusRow,
  ErasureState,
  KeyPage,
  KeyStore,
  NewKeyRecord,
  ShredOptions,
  ShredResult,
  StoreChange,
  StoreFinding,
  StoreMaintenance,
  WrapChange,
} from './store.js'
export type { KeyRecord, KeyRef } from './table.js'
