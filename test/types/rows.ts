/** Compiled, never run: the types of rows in bulk, of sources, and of the registry. */
import { pgTable, text as pgText } from 'drizzle-orm/pg-core'
import { integer, sqliteTable, text } from 'drizzle-orm/sqlite-core'
import { encryptedText, tokenText } from '../../src/drizzle/sqlite.js'
import { decryptRows, type EnvelopeCrypto, encryptRows, type Token } from '../../src/index.js'
import { defineEncrypted, drizzleSource, reencrypt } from '../../src/reencrypt/index.js'

const credentials = sqliteTable('credentials', {
  id: integer('id').primaryKey(),
  userId: text('user_id').notNull(),
  apiKey: encryptedText('api_key', { context: 'credentials.api_key' }).notNull(),
  token: tokenText('token'),
  plain: text('plain'),
})
const keys = pgTable('keys', { id: pgText('id').primaryKey(), ownerId: pgText('owner_id').notNull() })

interface Row {
  readonly id: number
  readonly userId: string
  readonly apiKey: Token
  readonly note: string | null
}

export async function rows(envelope: EnvelopeCrypto, given: readonly Row[]) {
  const { rows, errors } = await decryptRows(envelope, given, {
    owner: 'userId',
    columns: { apiKey: ({ id }) => ({ row: String(id) }), note: 'note' },
  })
  const [row] = rows
  const id: number | undefined = row?.id
  // What failed is absent.
  const apiKey: string | undefined = row?.apiKey
  const note: string | null | undefined = row?.note
  const column: 'apiKey' | 'note' | undefined = errors[0]?.column
  // @ts-expect-error a plaintext is no token
  const token: Token | undefined = row?.apiKey
  const encrypted = await encryptRows(envelope, given, {
    owner: (row) => row.userId,
    columns: { note: null },
  })
  const made: Token | null | undefined = encrypted.rows[0]?.note
  // @ts-expect-error no such property
  await encryptRows(envelope, given, { owner: 'userID', columns: { note: null } })
  // @ts-expect-error no such property
  await encryptRows(envelope, given, { owner: 'userId', columns: { notes: null } })
  return { id, apiKey, note, column, token, made }
}

export async function sources(envelope: EnvelopeCrypto, db: { readonly $client: unknown }) {
  const source = drizzleSource(db, credentials, {
    key: 'id',
    owner: 'userId',
    columns: { apiKey: ({ id, plain }) => ({ row: id.toFixed(), plain: plain ?? '' }) },
  })
  await reencrypt({ envelope, source, context: ({ userId }) => userId.toLowerCase() })
  drizzleSource(db, credentials, { key: ['userId', 'id'], owner: null, columns: ['apiKey', 'token'] })
  // @ts-expect-error the database's name of the column
  drizzleSource(db, credentials, { key: 'id', owner: 'user_id', columns: ['apiKey'] })
  // @ts-expect-error no such property
  drizzleSource(db, credentials, { key: 'id', owner: 'userId', columns: ['api_key'] })
  // @ts-expect-error whose the values are must be said
  drizzleSource(db, credentials, { key: 'id', columns: ['apiKey'] })
}

export const registry = defineEncrypted({
  credentials: { table: credentials, owner: 'userId', columns: { token: ({ id }) => String(id) } },
  keys,
})
// @ts-expect-error no such property of this table
defineEncrypted({ keys: { table: keys, owner: 'userId' } })
