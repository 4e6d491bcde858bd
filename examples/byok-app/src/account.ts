/** What is stored about a person, and the end of it. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { KeystoreEvent, ShredReceipt } from 'drizzle-keystore'
import { asc, eq } from 'drizzle-orm'
import { z } from 'zod'
import type { OpenedDatabase } from './database.js'
import type { ApiKeys } from './keys.js'
import { isKeystoreError } from './log.js'

/** What somebody says of themselves. Better Auth sets no bounds, and Postgres takes no NUL. */
export const personSchema = z.object({
  name: z
    .string('Say your name.')
    .trim()
    .min(1, 'Say your name.')
    .max(80, 'A name has at most 80 characters.')
    .regex(/^\P{Cc}*$/u, 'A name has no control characters in it.'),
  email: z
    .string('Say your e-mail address.')
    .trim()
    .max(254, 'An e-mail address has at most 254 characters.')
    .pipe(z.email('This is not an e-mail address.')),
})

/** Everything that is stored about a person, for a download. Secrets are left out: whoever finds the file would have them. */
export async function exportOf({ db, tables }: OpenedDatabase, keys: ApiKeys, userId: string) {
  const { user, account, session } = tables
  const [person] = await db
    .select({
      id: user.id,
      name: user.name,
      email: user.email,
      emailVerified: user.emailVerified,
      createdAt: user.createdAt,
      updatedAt: user.updatedAt,
    })
    .from(user)
    .where(eq(user.id, userId))
  const signInMethods = await db
    .select({
      provider: account.providerId,
      accountId: account.accountId,
      scope: account.scope,
      createdAt: account.createdAt,
    })
    .from(account)
    .where(eq(account.userId, userId))
  const sessions = await db
    .select({
      createdAt: session.createdAt,
      expiresAt: session.expiresAt,
      ipAddress: session.ipAddress,
      userAgent: session.userAgent,
    })
    .from(session)
    .where(eq(session.userId, userId))
    .orderBy(asc(session.createdAt))
  const listed = await keys.list(userId).catch((error) => {
    if (isKeystoreError(error) && error.code === 'ERR_KEY_SHREDDED') return keys.listErased(userId)
    throw error
  })
  return {
    note: 'Passwords, the tokens of your sign-in provider and the API keys themselves are stored too, and left out here.',
    exportedAt: new Date(),
    person,
    signInMethods,
    sessions,
    apiKeys: listed.map(({ lastFour, ...key }) => ({ ...key, endsIn: lastFour })),
  }
}

export async function hasPassword(
  { db, tables: { account } }: OpenedDatabase,
  userId: string,
): Promise<boolean> {
  const methods = await db
    .select({ provider: account.providerId })
    .from(account)
    .where(eq(account.userId, userId))
  return methods.some(({ provider }) => provider === 'credential')
}

/**
 * The receipt of the shred that `work` causes. Better Auth's adapter shreds a user whose row is deleted, and tells of it by an event.
 *
 * @returns null for the receipt if the user was not shredded
 */
export async function withReceipt<Result>(
  userId: string,
  work: () => Promise<Result>,
): Promise<{ result: Result; receipt: ShredReceipt | null }> {
  let receipt: ShredReceipt | null = null
  const onShred = (message: unknown) => {
    const event = message as KeystoreEvent
    if (event.type === 'shredded' && event.userId === userId) receipt = event
  }
  subscribe('drizzle-keystore:shredded', onShred)
  try {
    const result = await work()
    return { result, receipt }
  } finally {
    unsubscribe('drizzle-keystore:shredded', onShred)
  }
}
