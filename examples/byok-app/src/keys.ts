/** The API keys that people keep here. Each call is about the keys of one person, and runs in the scope of that person's own key. */
import { randomUUID } from 'node:crypto'
import type { EnvelopeCrypto, UserHandle } from 'drizzle-keystore'
import { isUnreadable } from 'drizzle-keystore'
import { and, asc, count, eq } from 'drizzle-orm'
import { z } from 'zod'
import type { Database, OpenedDatabase, Tables } from './database.js'
import { CHECK_LIMIT, type Limits } from './limits.js'
import { isKeystoreError } from './log.js'
import { type CheckResult, checkKey, type Providers } from './providers.js'

/** A key as it is shown: never the secret itself. */
export interface ListedKey {
  readonly id: string
  readonly provider: string
  /** Null: it cannot be read, since the stored value was damaged or is another person's. */
  readonly label: string | null
  readonly lastFour: string | null
  readonly createdAt: Date
  readonly replacedAt: Date | null
  readonly lastUsedAt: Date | null
  readonly lastResult: CheckResult | null
}

export type NewKey = z.infer<ReturnType<typeof newKeySchema>>

/** Printable ASCII without spaces: it becomes a header. At least 16, of which the last four are a small part. */
const apiKeySchema = z
  .string()
  .trim()
  .min(16, 'An API key has at least 16 characters.')
  .max(512, 'An API key has at most 512 characters.')
  .regex(/^[\x21-\x7e]*$/, 'An API key has no spaces or special characters in it. Copy it once more.')

export const replacementSchema = z.object({ apiKey: apiKeySchema })

export function newKeySchema(providers: Providers) {
  return z.object({
    provider: z.enum(
      providers.all.map(({ id }) => id),
      'Choose a provider.',
    ),
    label: z.string().trim().min(1, 'Give it a name.').max(80, 'A name has at most 80 characters.'),
    apiKey: apiKeySchema,
  })
}

const MOST_KEYS = 50

export type Refusal = 'duplicate' | 'full' | 'missing' | 'unreadable' | 'soon'

export class ApiKeys {
  readonly #db: Database
  readonly #keys: Tables['apiKeys']
  readonly #envelope: EnvelopeCrypto
  readonly #providers: Providers
  readonly #limits: Limits

  constructor(
    { db, tables }: OpenedDatabase,
    envelope: EnvelopeCrypto,
    providers: Providers,
    limits: Limits,
  ) {
    this.#db = db
    this.#keys = tables.apiKeys
    this.#envelope = envelope
    this.#providers = providers
    this.#limits = limits
  }

  /** Opens no secret: the label and the last four characters are columns of their own. */
  list(userId: string): Promise<ListedKey[]> {
    const { id, provider, label, lastFour, createdAt, replacedAt, lastUsedAt, lastResult } = this.#keys
    const columns = { id, provider, label, lastFour, createdAt, replacedAt, lastUsedAt, lastResult }
    return this.#scope(userId, async () => {
      const rows = await this.#db
        .select(columns)
        .from(this.#keys)
        .where(eq(this.#keys.userId, userId))
        .orderBy(asc(createdAt), asc(id))
      return rows.map((row) => ({
        ...row,
        label: isUnreadable(row.label) ? null : row.label,
        lastFour: isUnreadable(row.lastFour) ? null : row.lastFour,
        lastResult: row.lastResult as CheckResult | null,
      }))
    })
  }

  /** After the data key was erased: what is not encrypted, without a label. */
  async listErased(userId: string): Promise<ListedKey[]> {
    const { id, provider, createdAt, replacedAt, lastUsedAt, lastResult } = this.#keys
    const rows = await this.#db
      .select({ id, provider, createdAt, replacedAt, lastUsedAt, lastResult })
      .from(this.#keys)
      .where(eq(this.#keys.userId, userId))
      .orderBy(asc(createdAt), asc(id))
    return rows.map((row) => ({
      ...row,
      label: null,
      lastFour: null,
      lastResult: row.lastResult as CheckResult | null,
    }))
  }

  async find(userId: string, id: string): Promise<ListedKey | null> {
    return (await this.list(userId)).find((key) => key.id === id) ?? null
  }

  /** @returns the id, or why it was not added */
  add(userId: string, { provider, label, apiKey }: NewKey): Promise<{ id: string } | Refusal> {
    return this.#scope(userId, async (user) => {
      if ((await this.#count(userId)) >= MOST_KEYS) return 'full'
      const id = randomUUID()
      const added = await this.#db
        .insert(this.#keys)
        .values({
          id,
          userId,
          provider,
          label,
          createdAt: new Date(),
          ...sealed(user, { id, provider }, apiKey),
        })
        .onConflictDoNothing()
        .returning({ id: this.#keys.id })
      return added.length === 0 ? 'duplicate' : { id }
    })
  }

  /** Another secret in the same place. @returns null, or why it was not replaced */
  replace(userId: string, id: string, apiKey: string): Promise<Refusal | null> {
    return this.#scope(userId, async (user) => {
      const [row] = await this.#db
        .select({ provider: this.#keys.provider, fingerprint: this.#keys.fingerprint })
        .from(this.#keys)
        .where(this.#own(userId, id))
      if (row === undefined) return 'missing'
      const values = sealed(user, { id, provider: row.provider }, apiKey)
      const [same] = await this.#db
        .select({ id: this.#keys.id })
        .from(this.#keys)
        .where(and(eq(this.#keys.userId, userId), eq(this.#keys.fingerprint, values.fingerprint)))
      if (same !== undefined) return 'duplicate'
      await this.#db
        .update(this.#keys)
        .set({ ...values, replacedAt: new Date(), lastUsedAt: null, lastResult: null })
        .where(this.#own(userId, id))
      return null
    })
  }

  /** @returns whether there was such a key of this person */
  async remove(userId: string, id: string): Promise<boolean> {
    const removed = await this.#db
      .delete(this.#keys)
      .where(this.#own(userId, id))
      .returning({ id: this.#keys.id })
    return removed.length > 0
  }

  /** Uses the key once, at its provider. */
  async check(userId: string, id: string): Promise<CheckResult | Refusal> {
    const [row] = await this.#db
      .select({
        provider: this.#keys.provider,
        secret: this.#keys.secret,
        fingerprint: this.#keys.fingerprint,
      })
      .from(this.#keys)
      .where(this.#own(userId, id))
    const provider = row && this.#providers.find(row.provider)
    if (row === undefined || !provider) return 'missing'
    const apiKey = await this.#envelope
      .decrypt(userId, row.secret, contextOf({ id, provider: row.provider }))
      .catch((error) => {
        if (isKeystoreError(error) && error.code === 'ERR_DECRYPTION_FAILED') return null
        throw error
      })
    if (apiKey === null) return 'unreadable'
    if ((await this.#limits.take(CHECK_LIMIT, userId)) !== null) return 'soon'
    const lastResult = await checkKey(provider, apiKey)
    // Of the secret that was sent: another one may be in its place by now.
    const sent = eq(this.#keys.fingerprint, row.fingerprint)
    await this.#db
      .update(this.#keys)
      .set({ lastUsedAt: new Date(), lastResult })
      .where(and(this.#own(userId, id), sent))
    return lastResult
  }

  /** A row that somebody moved here from another person is shown as unreadable, and the page goes on. */
  #scope<Result>(userId: string, work: (user: UserHandle) => Promise<Result>): Promise<Result> {
    return this.#envelope.scope(userId, work, { onUnreadable: 'marker' })
  }

  /** Every statement about one key names its owner too: a guessed id finds nothing. */
  #own(userId: string, id: string) {
    return and(eq(this.#keys.id, id), eq(this.#keys.userId, userId))
  }

  async #count(userId: string): Promise<number> {
    const [row] = await this.#db
      .select({ keys: count() })
      .from(this.#keys)
      .where(eq(this.#keys.userId, userId))
    return row?.keys ?? 0
  }
}

interface Place {
  readonly id: string
  readonly provider: string
}

/** Authenticated with the secret: it opens in this row, for this provider, and nowhere else. registry.ts has it too, for the sweep. */
export const contextOf = ({ id, provider }: Place) => ({ column: 'api_key.secret', id, provider })

function sealed(user: UserHandle, place: Place, apiKey: string) {
  return {
    secret: user.encrypt(apiKey, contextOf(place)),
    lastFour: apiKey.slice(-4),
    fingerprint: user.fingerprint(apiKey, { name: 'api_key.secret' }),
  }
}
