/** How commands print their reports on standard output: as text, or as one JSON document. */
import { isPostgresUrl } from '../drivers/url.js'
import { escaped, printable, quoted } from '../errors.js'
import { type CensusRow, MANY_TENANTS } from '../store.js'
import { tenantIdOf } from '../table.js'
import { sayIndented } from './say.js'

/** Prints a report as one JSON document: dates in ISO 8601, bigints as text, ids whole. No report holds bytes. */
export function printJson(report: unknown): void {
  console.log(
    escaped(JSON.stringify(report, (_, value) => (typeof value === 'bigint' ? String(value) : value))),
  )
}

/** `1,234` */
export function thousands(count: number): string {
  return Math.round(count).toLocaleString('en')
}

/** `1 key`, `1,234 keys` */
export function counted(count: number, thing: string): string {
  return `${thousands(count)} ${thing}${count === 1 ? '' : 's'}`
}

/** A user id in a sentence: in quotes, on one line whatever characters it has, and cut if it is long. */
export const printableId = quoted

/** Whose key it is, in a sentence: a user's, a tenant's own, or the pool's. */
export function ownerName(userId: string): string {
  if (userId === '') return 'the pool'
  const tenantId = tenantIdOf(userId)
  return tenantId === null ? quoted(userId) : `tenant ${quoted(tenantId)}`
}

/** How many users, and how many tenants: who shreds a tenant ends all of its users. */
export function countedOwners(userIds: readonly string[]): string {
  const tenants = userIds.filter((userId) => tenantIdOf(userId) !== null).length
  const users = counted(userIds.length - tenants, 'user')
  if (tenants === 0) return users
  return userIds.length === tenants
    ? counted(tenants, 'tenant')
    : `${users} and ${counted(tenants, 'tenant')}`
}

/** A KEK id for people. */
export function kekName(kekId: string | null): string {
  return kekId === null ? 'none named (the Python reference)' : printable(kekId)
}

/** What rows of a census are under, for people. Those of many tenants are counted together. */
export function countedKekName({ kekId, ofTenants }: Pick<CensusRow, 'kekId' | 'ofTenants'>): string {
  if (kekId === MANY_TENANTS) return ofTenants ? 'other roots (keys of tenants)' : "tenants' keys"
  return ofTenants ? `${kekName(kekId)} (keys of tenants)` : kekName(kekId)
}

/** Where the bytes of erased keys are no longer, once a store has said `file`. @param url of the store */
export function erasedFrom(url: string): string {
  return isPostgresUrl(url)
    ? 'not in the table any more; its write-ahead log, replicas and backups keep their bytes until they expire'
    : 'in no file of the database any more'
}

/** Prints the first of many lines, and how many more there are. */
export function printSome(lines: readonly string[], total: number, most = 20): void {
  for (const line of lines.slice(0, most)) sayIndented(line)
  if (total > most) sayIndented(`… and ${thousands(total - most)} more: --json lists them`)
}

/** Sets the exit code: 0 or 1, unless an interruption has set it already. */
export function setExitCode(ok: boolean): void {
  process.exitCode ??= ok ? 0 : 1
}
