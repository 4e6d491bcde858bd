// API keys of users, encrypted. Your migrations make the tables of schema.ts first: `drizzle-kit generate` and `migrate`, or `push` with
// tablesFilter: ['!encryption_keys', '!__drizzle_keystore_migrations'] in its config. Then `npx tsx app.ts`. For Postgres change the import of drizzle (to drizzle-orm/node-postgres) and APP_URL.
import { EnvelopeCrypto, masterKeysFromEnv } from 'drizzle-keystore'
import { openKeyStore } from 'drizzle-keystore/open'
import { eq } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/better-sqlite3'
import { credentials, users } from './schema.js'

const masterKeys = masterKeysFromEnv() // first: without a master key no database is made
const url = process.env.APP_URL ?? 'app.db'
const db = drizzle(url)
const envelope = await EnvelopeCrypto.open({ store: await openKeyStore(url), masterKeys })

async function addKey(userId: string, id: string, apiKey: string) {
  await envelope.scope(userId, (user) => {
    const fingerprint = user.fingerprint(apiKey, { name: 'credentials.api_key' })
    return db.insert(credentials).values({ id, userId, apiKey, fingerprint }).onConflictDoNothing()
  })
}
const keysOf = (userId: string) => db.select().from(credentials).where(eq(credentials.userId, userId))

await db
  .insert(users)
  .values([
    { id: 'alice', name: 'Alice' },
    { id: 'bob', name: 'Bob' },
  ])
  .onConflictDoNothing()
await addKey('alice', 'a1', 'sk-alice')
await addKey('alice', 'a2', 'sk-alice') // the same key once more: the unique index keeps it out
await addKey('bob', 'b1', 'sk-bob')

for (const { id, apiKey } of await envelope.scope('alice', () => keysOf('alice'))) console.log(id, apiKey)
await envelope
  .scope('alice', () => keysOf('bob'))
  .catch(({ code }) => console.log(`Bob's row in Alice's scope: ${code}`))

await envelope.close()
process.exit()
