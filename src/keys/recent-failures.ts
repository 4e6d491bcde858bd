/** Why the rows of tenants were not opened a moment ago, so that a root which fails is not asked again so soon. */
import { LRUCache } from 'lru-cache'
import type { KeystoreError } from '../errors.js'
import type { KeyRef } from '../table.js'

/** A root that failed is asked again after this. */
const ASK_AGAIN_MS = 1000
const MAX_TENANTS = 10_000

interface Failure {
  readonly error: KeystoreError
  readonly until: number
}

export class RecentFailures {
  /** By the user id of the tenant's own rows, then by version: versions may be under different roots. */
  readonly #failures = new LRUCache<string, Map<number, Failure>>({ max: MAX_TENANTS })

  get({ userId, version }: KeyRef): KeystoreError | undefined {
    const failure = this.#failures.get(userId)?.get(version)
    return failure !== undefined && performance.now() < failure.until ? failure.error : undefined
  }

  add({ userId, version }: KeyRef, error: KeystoreError): void {
    const ofTenant = this.#failures.get(userId) ?? new Map<number, Failure>()
    ofTenant.set(version, { error, until: performance.now() + ASK_AGAIN_MS })
    this.#failures.set(userId, ofTenant)
  }

  /** The tenant's rows may have changed. */
  delete(userId: string): void {
    this.#failures.delete(userId)
  }
}
