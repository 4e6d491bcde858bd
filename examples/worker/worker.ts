// API keys of users in Cloudflare Workers, with Hono. On D1; on Postgres through postgres-js where POSTGRES_URL is set.
import { EnvelopeCrypto, localMasterKey } from 'drizzle-keystore'
import { postgresKeyStore } from 'drizzle-keystore/postgres'
import { sqliteKeyStore } from 'drizzle-keystore/sqlite'
import { drizzle as onD1 } from 'drizzle-orm/d1'
import { drizzle as onPostgres } from 'drizzle-orm/postgres-js'
import { type Context, Hono } from 'hono'
import postgres from 'postgres'

interface Env {
  readonly Bindings: {
    readonly DB: Parameters<typeof onD1>[0]
    readonly POSTGRES_URL?: string
    /** base64url of 32 bytes: `wrangler secret put MASTER_KEY`. */
    readonly MASTER_KEY: string
  }
}

const app = new Hono<Env>()

// The service of one request. One request must not wait for what another one has begun, so that none is shared.
async function withEnvelope(c: Context<Env>, work: (envelope: EnvelopeCrypto) => Promise<Response>) {
  const { DB, POSTGRES_URL, MASTER_KEY } = c.env
  const sql = POSTGRES_URL === undefined ? null : postgres(POSTGRES_URL, { max: 1 })
  const envelope = await EnvelopeCrypto.open({
    store:
      sql === null
        ? sqliteKeyStore({ db: onD1(DB) })
        : postgresKeyStore({ db: onPostgres({ client: sql }) }, { listenUrl: false }),
    masterKeys: localMasterKey(Buffer.from(MASTER_KEY, 'base64url')),
    cache: false,
  })
  try {
    return await work(envelope)
  } finally {
    await envelope.close()
    await sql?.end()
  }
}

// Who asks is known from a session in a real application.
const userOf = (c: Context<Env>) => c.req.header('x-user') ?? ''
const context = { column: 'credentials.api_key' }

app.post('/encrypt', (c) =>
  withEnvelope(c, async (envelope) => c.text(await envelope.encrypt(userOf(c), await c.req.text(), context))),
)
app.post('/decrypt', (c) =>
  withEnvelope(c, async (envelope) => c.text(await envelope.decrypt(userOf(c), await c.req.text(), context))),
)
app.post('/rotate', (c) =>
  withEnvelope(c, async (envelope) => c.json({ version: (await envelope.rotateUserKey(userOf(c))).version })),
)
app.post('/shred', (c) =>
  withEnvelope(c, async (envelope) => {
    const { versions, erased, pending } = await envelope.shredUser(userOf(c))
    return c.json({ versions, erased, pending })
  }),
)
app.onError((error, c) => c.json({ code: 'code' in error ? error.code : error.name }, 400))

export default app
