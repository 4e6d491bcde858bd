/** The configuration, from the environment and from the file `.env`. What is missing or wrong ends the start, with what to do next. */
import { existsSync, readFileSync } from 'node:fs'
import { loadEnvFile } from 'node:process'
import { z } from 'zod'

/** A text that stands in the variable itself, or in the file that NAME_FILE names, as Docker's secrets do. */
function variableOrFile(env: NodeJS.ProcessEnv, name: string): string | undefined {
  const file = env[`${name}_FILE`]
  return file === undefined || file === '' ? env[name] : readFileSync(file, 'utf8').trim()
}

const url = z.url({ protocol: /^https?$/ }).transform((text) => new URL(text))
const schema = z.object({
  PUBLIC_URL: url.optional(),
  HOST: z.string().default('127.0.0.1'),
  PORT: z.coerce.number().int().min(0).max(65_535).default(3000),
  DATABASE_URL: z.string().default('data/app.db'),
  DATABASE_PASSWORD: z.string().optional(),
  BETTER_AUTH_SECRET: z
    .string({ error: 'is missing' })
    .min(32, 'must have at least 32 characters, at random'),
  OPERATOR_USER_ID: z.string().optional(),
  MAIL_URL: z.string().default('data/outbox'),
  MAIL_FROM: z.string().default('byok-app@localhost'),
  TRUST_PROXY: z.stringbool().default(false),
  REWRAP_BATCH_SIZE: z.coerce.number().int().min(1).max(5000).default(500),
  OAUTH_NAME: z.string().default('your organisation'),
  OAUTH_DISCOVERY_URL: z.url().optional(),
  OAUTH_CLIENT_ID: z.string().optional(),
  OAUTH_CLIENT_SECRET: z.string().optional(),
  KEYSTORE_KEY_LOG: z.string().optional(),
})
/** Those that may stand in a file of their own: NAME_FILE. */
const SECRETS = ['BETTER_AUTH_SECRET', 'DATABASE_PASSWORD', 'OAUTH_CLIENT_SECRET']

export interface Config {
  /** Where browsers find the application: scheme, host, port. */
  readonly publicUrl: URL
  readonly host: string
  readonly port: number
  /** A path of SQLite, or postgres://… */
  readonly databaseUrl: string
  readonly authSecret: string
  /** The id of a user, and no address: anybody can sign up with an address, and its owner might confirm it for them. */
  readonly operatorUserId: string | undefined
  /** smtp://… or a folder that mails are written to. */
  readonly mailUrl: string
  readonly mailFrom: string
  /** Whether the last address of X-Forwarded-For is from a proxy of ours. */
  readonly trustProxy: boolean
  readonly rewrapBatchSize: number
  readonly oauth: OAuthConfig | null
  readonly keyLog: string | undefined
  /** Base URLs of providers that are not at their own: PROVIDER_OPENAI_URL and so on. */
  readonly providerUrl: (id: string) => string | undefined
}

export interface OAuthConfig {
  readonly name: string
  readonly discoveryUrl: string
  readonly clientId: string
  readonly clientSecret: string
}

/** An error that its reader can do something about: its message is printed, and no stack. */
export class SetupError extends Error {}

/** Reads `.env`, if there is one. What the environment has already stays as it is. */
export function loadDotEnv(): void {
  if (existsSync('.env')) loadEnvFile('.env')
}

/** @throws SetupError, which names the variable and never its value */
export function configFrom(env: NodeJS.ProcessEnv): Config {
  const given: Record<string, string | undefined> = {}
  for (const name of Object.keys(schema.shape))
    given[name] = (SECRETS.includes(name) ? variableOrFile(env, name) : env[name]) || undefined
  const { success, data, error } = schema.safeParse(given)
  if (!success) {
    const problems = error.issues.map(({ path, message }) => `  ${path.join('.')}: ${message}`)
    throw new SetupError(
      [
        'The configuration is not complete:',
        ...problems,
        'To make one with keys of its own: npm run setup',
      ].join('\n'),
    )
  }
  return {
    publicUrl: data.PUBLIC_URL ?? new URL(`http://localhost:${data.PORT}`),
    host: data.HOST,
    port: data.PORT,
    databaseUrl: withPassword(data.DATABASE_URL, data.DATABASE_PASSWORD),
    authSecret: data.BETTER_AUTH_SECRET,
    operatorUserId: data.OPERATOR_USER_ID,
    mailUrl: data.MAIL_URL,
    mailFrom: data.MAIL_FROM,
    trustProxy: data.TRUST_PROXY,
    rewrapBatchSize: data.REWRAP_BATCH_SIZE,
    oauth: oauthOf(data),
    keyLog: data.KEYSTORE_KEY_LOG,
    providerUrl: (id) => env[`PROVIDER_${id.toUpperCase()}_URL`] || undefined,
  }
}

export const isPostgres = (databaseUrl: string) => /^postgres(ql)?:\/\//.test(databaseUrl)

function withPassword(databaseUrl: string, password: string | undefined): string {
  if (password === undefined || !isPostgres(databaseUrl)) return databaseUrl
  const url = new URL(databaseUrl)
  url.password = encodeURIComponent(password)
  return url.href
}

function oauthOf(data: z.infer<typeof schema>): OAuthConfig | null {
  const { OAUTH_NAME, OAUTH_DISCOVERY_URL, OAUTH_CLIENT_ID, OAUTH_CLIENT_SECRET } = data
  const given = [OAUTH_DISCOVERY_URL, OAUTH_CLIENT_ID, OAUTH_CLIENT_SECRET]
  if (given.every((value) => value === undefined)) return null
  if (!OAUTH_DISCOVERY_URL || !OAUTH_CLIENT_ID || !OAUTH_CLIENT_SECRET)
    throw new SetupError(
      'OAUTH_DISCOVERY_URL, OAUTH_CLIENT_ID and OAUTH_CLIENT_SECRET go together: set all three',
    )
  return {
    name: OAUTH_NAME,
    discoveryUrl: OAUTH_DISCOVERY_URL,
    clientId: OAUTH_CLIENT_ID,
    clientSecret: OAUTH_CLIENT_SECRET,
  }
}
