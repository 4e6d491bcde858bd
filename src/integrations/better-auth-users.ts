/** Shreds the keys of users whom Better Auth has deleted. */
import type { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import { isKeystoreError, KeystoreError, quoted } from '../errors.js'
import type { ShredOnDelete } from './adapter-options.js'
import type { AuthAdapter, Row } from './better-auth-shapes.js'

/** Ids in one query: databases limit the values that a query has. */
const AT_ONCE = 500

/** What is done about deleted users, at once or when a transaction is committed. */
export class UserShredder {
  readonly #envelope: EnvelopeCrypto
  readonly #mode: ShredOnDelete
  readonly #deferred: Set<string> | null

  constructor(envelope: EnvelopeCrypto, mode: ShredOnDelete, deferred: Set<string> | null = null) {
    this.#envelope = envelope
    this.#mode = mode
    this.#deferred = deferred
  }

  get isOn(): boolean {
    return this.#mode !== false
  }

  /** One that waits for {@link shred}: what a transaction deletes may come back. */
  deferred(): UserShredder {
    return new UserShredder(this.#envelope, this.#mode, new Set())
  }

  /** @param userIds of rows that were there and are deleted */
  async deleted(base: AuthAdapter, userIds: readonly string[]): Promise<void> {
    if (this.#deferred === null) await this.#shred(base, userIds)
    else for (const userId of userIds) this.#deferred.add(userId)
  }

  /** Shreds whom a transaction has deleted. */
  async shred(base: AuthAdapter): Promise<void> {
    await this.#shred(base, [...(this.#deferred ?? [])])
  }

  async #shred(base: AuthAdapter, userIds: readonly string[]): Promise<void> {
    const failures: { readonly userId: string; readonly error: unknown }[] = []
    for (let at = 0; at < userIds.length; at += AT_ONCE) {
      const ids = userIds.slice(at, at + AT_ONCE)
      // A row that is still there was not deleted after all: its keys would be gone for good.
      const where = [{ field: 'id', operator: 'in', value: ids }]
      const left = await base.findMany({ model: 'user', where, limit: ids.length, select: ['id'] })
      const kept = new Set(deletedUsers(left))
      for (const userId of ids.filter((id) => !kept.has(id))) {
        try {
          await this.#envelope.shredUser(userId, { forget: this.#mode === 'forget' })
        } catch (error) {
          failures.push({ userId, error })
        }
      }
    }
    const [first] = failures
    if (first !== undefined) throw notShredded(first.userId, failures.length, first.error)
  }
}

/** The ids of rows of `user`. */
export function deletedUsers(rows: readonly Row[]): string[] {
  return rows.map(({ id }) => String(id))
}

function notShredded(userId: string, count: number, error: unknown): KeystoreError {
  const others = count === 1 ? '' : ` and of ${count - 1} more`
  return new KeystoreError(
    isKeystoreError(error) ? error.code : 'ERR_STORE',
    `User ${quoted(userId)} was deleted, but the keys of the user${others} were not erased: call envelope.shredUser, or run \`npx keystore shred-user\``,
    isKeystoreError(error) ? { cause: error } : {},
  )
}
