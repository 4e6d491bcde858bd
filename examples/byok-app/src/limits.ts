/** How often somebody may do something, whichever process answers: counted in the database, in Better Auth's table. */
import { createHmac, randomUUID } from 'node:crypto'
import { eq, sql } from 'drizzle-orm'
import type { Config } from './config.js'
import type { OpenedDatabase } from './database.js'

export interface Limit {
  readonly action: string
  readonly most: number
  readonly seconds: number
}

/** A check is a request to somebody else's server. */
export const CHECK_LIMIT: Limit = { action: 'check', most: 1, seconds: 3 }

/** On one account, from whatever addresses: Better Auth counts by address alone. */
export const SIGN_IN_LIMIT: Limit = { action: 'sign-in', most: 20, seconds: 15 * 60 }
/** Each sends a mail. */
export const CONFIRM_LIMIT: Limit = { action: 'confirm', most: 3, seconds: 60 }

export class Limits {
  readonly #database: OpenedDatabase
  readonly #secret: string

  constructor({ authSecret }: Pick<Config, 'authSecret'>, database: OpenedDatabase) {
    this.#database = database
    this.#secret = authSecret
  }

  /**
   * Counts one more, in one statement: of requests at the same time no more than `most` get through.
   *
   * @returns null, or after how many seconds to try again
   */
  async take({ action, most, seconds }: Limit, who: string): Promise<number | null> {
    const { db, tables } = this.#database
    const { key, count, lastRequest, id } = tables.rateLimit
    const hashed = createHmac('sha256', this.#secret).update(`limit\0${action}\0${who}`).digest('base64url')
    const now = Date.now()
    // The end of the window, and not its begin: Better Auth deletes rows whose `lastRequest` is longer ago than its own longest window.
    const end = now + seconds * 1000
    const isOver = sql`${lastRequest} <= ${now}`
    const counted = await db
      .insert(tables.rateLimit)
      .values({ id: randomUUID(), key: hashed, count: 1, lastRequest: end })
      .onConflictDoUpdate({
        target: key,
        set: {
          count: sql`case when ${isOver} then 1 else ${count} + 1 end`,
          lastRequest: sql`case when ${isOver} then ${end} else ${lastRequest} end`,
        },
        setWhere: sql`${isOver} or ${count} < ${most}`,
      })
      .returning({ id })
    if (counted.length > 0) return null
    const [row] = await db.select({ end: lastRequest }).from(tables.rateLimit).where(eq(key, hashed))
    return Math.max(1, Math.ceil(((row?.end ?? end) - now) / 1000))
  }
}
