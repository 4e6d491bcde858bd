/** An application with Auth.js: its tables, its handler over an encrypting adapter, and a browser in front of it. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Auth, type AuthConfig, skipCSRFCheck } from '@auth/core'
import type { Adapter } from '@auth/core/adapters'
import { DrizzleAdapter } from '@auth/drizzle-adapter'
import type Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import { pgTable, text as pgText } from 'drizzle-orm/pg-core'
import { sqliteTable, text } from 'drizzle-orm/sqlite-core'
import type pg from 'pg'
import type { Dialect } from './databases.js'
import type { OAuthProvider } from './oauth-provider.js'
import { type RawDatabase, rawDatabase } from './raw-database.js'

export const AUTH_JS_URL = 'http://localhost:3000/auth'

/** The tables of https://authjs.dev/getting-started/adapters/drizzle, which the adapter has by default. */
const tables = (time: string, boolean: string) => [
  `create table "user" (id text primary key, name text, email text unique, "emailVerified" ${time}, image text)`,
  `create table account ("userId" text not null references "user"(id) on delete cascade, type text not null, provider text not null,
    "providerAccountId" text not null, refresh_token text, access_token text, expires_at integer, token_type text, scope text, id_token text,
    session_state text, primary key (provider, "providerAccountId"))`,
  `create table session ("sessionToken" text primary key, "userId" text not null references "user"(id) on delete cascade, expires ${time} not null)`,
  `create table "verificationToken" (identifier text not null, token text not null, expires ${time} not null, primary key (identifier, token))`,
  `create table authenticator ("credentialID" text not null unique, "userId" text not null references "user"(id) on delete cascade,
    "providerAccountId" text not null, "credentialPublicKey" text not null, counter integer not null, "credentialDeviceType" text not null,
    "credentialBackedUp" ${boolean} not null, transports text, primary key ("userId", "credentialID"))`,
]

const names = [
  'userId',
  'provider',
  'providerAccountId',
  'access_token',
  'refresh_token',
  'id_token',
] as const
const columnsOf = <Column>(column: (name: string) => Column) =>
  Object.fromEntries(names.map((name) => [name, column(name)])) as Record<(typeof names)[number], Column>
const accountsOn = {
  sqlite: sqliteTable(
    'account',
    columnsOf((name) => text(name)),
  ),
  postgres: pgTable(
    'account',
    columnsOf((name) => pgText(name)),
  ),
}

export interface AuthJsDatabase extends Pick<RawDatabase, 'url' | 'query' | 'insert'> {
  /** Auth.js' own adapter, which encrypts nothing. */
  readonly adapter: Adapter
  /** For sources of the sweep. */
  readonly db: ReturnType<typeof drizzlePostgres>
  readonly accounts: (typeof accountsOn)['postgres']
  /** All that is stored: the files on SQLite, all rows on Postgres. */
  content(): Promise<string>
  remove(): Promise<void>
}

export async function authJsDatabase(dialect: Dialect): Promise<AuthJsDatabase> {
  const host = await rawDatabase(dialect)
  if (dialect === 'sqlite') (host.client as Database.Database).pragma('foreign_keys = on')
  for (const statement of dialect === 'sqlite'
    ? tables('integer', 'integer')
    : tables('timestamp', 'boolean'))
    await host.query(statement)
  // On both dialects the same queries run.
  const db = (
    dialect === 'sqlite'
      ? drizzleSqlite({ client: host.client as Database.Database })
      : drizzlePostgres({ client: host.client as pg.Pool })
  ) as ReturnType<typeof drizzlePostgres>
  return {
    url: host.url,
    query: host.query,
    insert: host.insert,
    adapter: DrizzleAdapter(db),
    db,
    accounts: accountsOn[dialect] as (typeof accountsOn)['postgres'],
    async content() {
      if (dialect === 'sqlite') {
        const folder = dirname(host.url)
        return readdirSync(folder)
          .map((file) => readFileSync(join(folder, file), 'latin1'))
          .join('\n')
      }
      const all = ['"user"', 'account', 'session', '"verificationToken"', 'authenticator']
      return JSON.stringify(await Promise.all(all.map((name) => host.query(`select * from ${name}`))))
    },
    remove: () => host.close(),
  }
}

export class AuthJsApp {
  readonly #config: AuthConfig
  readonly #cookies = new Map<string, string>()
  /** What Auth.js has logged as errors: it answers with a redirect. */
  readonly errors: unknown[] = []

  /** @param names of the providers, which are the same server */
  constructor(adapter: Adapter, { issuer }: OAuthProvider, names: readonly string[]) {
    this.#config = {
      adapter,
      basePath: '/auth',
      secret: 'a secret of thirty-two characters',
      trustHost: true,
      // The browser of these tests has no form.
      skipCSRFCheck,
      logger: { error: (error) => this.errors.push(error), warn: () => undefined },
      providers: names.map((id) => ({
        id,
        name: id,
        type: 'oidc' as const,
        issuer,
        clientId: 'application',
        clientSecret: 'client-secret',
      })),
    }
  }

  /** Goes to a provider and comes back; links the provider's account if somebody is signed in. @returns where Auth.js sends the browser */
  async signInWith(provider: string): Promise<string> {
    const begun = await this.#request(`/signin/${provider}`, {
      method: 'POST',
      body: new URLSearchParams({ callbackUrl: '/done' }),
    })
    const asked = await fetch(String(begun.headers.get('location')), { redirect: 'manual' })
    const back = new URL(String(asked.headers.get('location')))
    const response = await this.#request(`${back.pathname.replace('/auth', '')}${back.search}`)
    return String(response.headers.get('location')).replace(AUTH_JS_URL, '')
  }

  /** @returns the e-mail address of who is signed in; null: nobody */
  async whoIsSignedIn(): Promise<string | null> {
    const session = (await (await this.#request('/session')).json()) as { user?: { email: string } } | null
    return session?.user?.email ?? null
  }

  /** Forgets who was signed in. */
  clear(): void {
    this.#cookies.clear()
  }

  async #request(path: string, init: RequestInit = {}): Promise<Response> {
    const cookie = Array.from(this.#cookies, ([name, value]) => `${name}=${value}`).join('; ')
    const response = await Auth(
      new Request(`${AUTH_JS_URL}${path}`, { ...init, headers: cookie ? { cookie } : {} }),
      this.#config,
    )
    for (const line of response.headers.getSetCookie()) {
      const [pair = ''] = line.split(';')
      const at = pair.indexOf('=')
      if (/max-age=0/i.test(line)) this.#cookies.delete(pair.slice(0, at))
      else this.#cookies.set(pair.slice(0, at), pair.slice(at + 1))
    }
    return response
  }
}
