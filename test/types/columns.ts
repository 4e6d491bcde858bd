/** Compiled, never run: what the types of encrypted columns allow, and what they must not. */
import { integer as pgInteger, pgTable } from 'drizzle-orm/pg-core'
import { integer, sqliteTable } from 'drizzle-orm/sqlite-core'
import * as onPostgres from '../../src/drizzle/postgres.js'
import * as onSqlite from '../../src/drizzle/sqlite.js'
import { EnvelopeCrypto, encryptWithKey, isToken, isUnreadable, type Token } from '../../src/index.js'

const inSqlite = sqliteTable('t', {
  id: integer('id').primaryKey(),
  note: onSqlite.encryptedText('note', { context: 't.note' }),
  name: onSqlite.encryptedText('name', { context: { table: 't', column: 'name' } }).notNull(),
  data: onSqlite.encryptedJson<{ n: number }>('data', { context: 't.data' }),
  token: onSqlite.tokenText('token'),
  nameFingerprint: onSqlite.fingerprintText('name_fp', { of: 'name', normalize: ['nfc'] }).notNull(),
})
const inPostgres = pgTable('t', {
  id: pgInteger('id').primaryKey(),
  note: onPostgres.encryptedText('note', { context: 't.note' }),
  name: onPostgres.encryptedText('name', { context: { table: 't', column: 'name' } }).notNull(),
  data: onPostgres.encryptedJson<{ n: number }>('data', { context: 't.data' }),
  token: onPostgres.tokenText('token'),
  nameFingerprint: onPostgres.fingerprintText('name_fp', { of: 'name', normalize: ['nfc'] }).notNull(),
})

type Row = typeof inSqlite.$inferSelect
type NewRow = typeof inSqlite.$inferInsert

/** Both dialects have the same rows, whose types are those of the plaintexts. */
export const same: readonly [Row, NewRow] = [
  {} as typeof inPostgres.$inferSelect,
  {} as typeof inPostgres.$inferInsert,
]
export const row: Row = {
  id: 1,
  note: null,
  name: 'x',
  data: { n: 1 },
  token: null,
  nameFingerprint: 'f1:…',
}

export async function tokens(envelope: EnvelopeCrypto, value: string): Promise<NewRow[]> {
  const handle = await envelope.user('alice')
  const [result] = await envelope.encryptMany([{ userId: 'alice', plaintext: 'x' }])
  const made: Token[] = [
    await envelope.encrypt('alice', 'x'),
    await envelope.encryptBytes('alice', new Uint8Array()),
    await envelope.pool.encrypt('x'),
    handle.encrypt('x'),
    handle.encryptBytes(new Uint8Array()),
    encryptWithKey('x', new Uint8Array(32)),
  ]
  if (result?.ok) made.push(result.value)
  if (isToken(value)) made.push(value)
  return made.map((token) => ({ name: 'x', token }))
}

const owned = { context: 't.a', ownerColumn: 'userId' }
export const options = [
  onSqlite.encryptedText('a', { context: 't.a', owner: 'pool' }),
  onPostgres.encryptedJson<number[]>('a', owned),
  onSqlite.encryptedBytes('a', owned),
]
const withBytes = pgTable('t', { file: onPostgres.encryptedBytes('file', { context: 't.file' }) })
export const file: { file: Uint8Array | null } = {} as typeof withBytes.$inferSelect
// @ts-expect-error bytes are no text
export const noText: typeof withBytes.$inferInsert = { file: 'text' }
// @ts-expect-error the column with the user's id is the option ownerColumn
onSqlite.encryptedText('a', { context: 't.a', owner: 'userId' })

export async function unreadable(envelope: EnvelopeCrypto, read: () => Promise<Row[]>): Promise<string[]> {
  // The type of the column stays as it is.
  const rows: Row[] = await envelope.scope('alice', read, { onUnreadable: 'marker' })
  await envelope.pool.scope(read, { onUnreadable: ({ leftover, error }) => leftover ?? error.code })
  // @ts-expect-error only these, or a function
  await envelope.scope('alice', read, { onUnreadable: 'skip' })
  return rows.flatMap(({ name }) => (isUnreadable(name) ? [name.error.code, name.column ?? ''] : []))
}

// @ts-expect-error a plain string is no token
export const plain: NewRow = { name: 'x', token: 'v3:…' }
// @ts-expect-error what is decrypted is no token
export const decrypted: Token = row.name
// @ts-expect-error the plaintext of a JSON column has its type
export const wrongData: NewRow = { name: 'x', data: { n: '1' } }
// @ts-expect-error a column that is not null needs a value
export const missing: NewRow = { note: 'x' }
// @ts-expect-error a context is required
onSqlite.encryptedText('note')
// @ts-expect-error a context is required
onSqlite.encryptedText('note', {})
// @ts-expect-error a context is required
onPostgres.encryptedJson('data', {})
// @ts-expect-error values of a context are strings
onPostgres.encryptedText('note', { context: { row: 1 } })
// @ts-expect-error only these two
onSqlite.tokenCheck(inSqlite.token, { formats: ['v4'] })
// @ts-expect-error a column of the other dialect
onSqlite.tokenCheck(inPostgres.token)

export const checks = [onSqlite.tokenCheck(inSqlite.token), onPostgres.tokenCheck(inPostgres.token)]
export const service = EnvelopeCrypto

interface Settings {
  readonly model: string
  readonly apiKey?: string | null
  readonly limit: number
  readonly providers?: Readonly<Record<string, { readonly secret: string | null }>>
  readonly hooks: readonly { readonly secret?: string; readonly tries: number }[]
  readonly named: { readonly a: { readonly key: string }; readonly b: { readonly key: string } }
  readonly 'dotted.name'?: string
  readonly any?: unknown
  readonly self?: Settings
}

const inFields = sqliteTable('t', {
  settings: onSqlite
    .encryptedFields<Settings>('settings', {
      context: 't.settings',
      paths: [
        'apiKey',
        'providers.openai.secret',
        'providers.*.secret',
        'hooks.*.secret',
        'named.*.key',
        'named.a.key',
        'self.apiKey',
        'any.thing',
        ['dotted.name'],
        ['named', '*', 'key'],
      ],
    })
    .notNull(),
  unnamed: onSqlite.encryptedFields({ context: 't.unnamed', paths: ['whatever'] }),
})
export const settings: Settings = {} as (typeof inFields.$inferSelect)['settings']
onPostgres.encryptedFields<Settings>('settings', { context: 't.settings', paths: ['apiKey'], type: 'json' })
// @ts-expect-error a number is no field that can be encrypted
onSqlite.encryptedFields<Settings>('settings', { context: 't.settings', paths: ['limit'] })
// @ts-expect-error a field that is not there
onSqlite.encryptedFields<Settings>('settings', { context: 't.settings', paths: ['apikey'] })
// @ts-expect-error an object
onSqlite.encryptedFields<Settings>('settings', { context: 't.settings', paths: ['named.a'] })
// @ts-expect-error a number in an array
onSqlite.encryptedFields<Settings>('settings', { context: 't.settings', paths: ['hooks.*.tries'] })
// @ts-expect-error an element of an array by its number
onSqlite.encryptedFields<Settings>('settings', { context: 't.settings', paths: ['hooks.0.secret'] })
// @ts-expect-error a name with a dot in a path with dots
onSqlite.encryptedFields<Settings>('settings', { context: 't.settings', paths: ['dotted.name'] })
// @ts-expect-error names that lead nowhere
onSqlite.encryptedFields<Settings>('settings', { context: 't.settings', paths: [['named', 'c', 'key']] })
// @ts-expect-error SQLite has no such type
onSqlite.encryptedFields<Settings>('settings', { context: 't.settings', paths: ['apiKey'], type: 'json' })
// @ts-expect-error paths are required
onSqlite.encryptedFields<Settings>('settings', { context: 't.settings' })
