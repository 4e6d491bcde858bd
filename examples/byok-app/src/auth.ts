/** Who somebody is: Better Auth, with the tokens of OAuth providers encrypted by drizzle-keystore. */
import { betterAuth } from 'better-auth'
import { drizzleAdapter } from 'better-auth/adapters/drizzle'
import { genericOAuth } from 'better-auth/plugins'
import type { EnvelopeCrypto } from 'drizzle-keystore'
import { encryptedAdapter } from 'drizzle-keystore/better-auth'
import type { Config } from './config.js'
import type { OpenedDatabase } from './database.js'
import { log } from './log.js'
import type { Mailer } from './mail.js'

/** The header in which this application tells Better Auth the client's address. web/auth-forms.ts sets it; what a client sends is dropped. */
export const CLIENT_ADDRESS_HEADER = 'x-byok-client-address'
export const OAUTH_PROVIDER = 'oauth'
export const MIN_PASSWORD_LENGTH = 12
const MINUTE = 60

export type Auth = ReturnType<typeof createAuth>

export function createAuth(
  config: Config,
  { db, tables, provider }: OpenedDatabase,
  envelope: EnvelopeCrypto,
  mailer: Mailer,
) {
  const { user, session, account, verification, rateLimit } = tables
  const adapter = drizzleAdapter(db, {
    provider,
    schema: { user, session, account, verification, rateLimit },
  })
  return betterAuth({
    appName: 'Keyring',
    baseURL: config.publicUrl.origin,
    secret: config.authSecret,
    // A user whose row is deleted is shredded by the adapter. There was no plaintext before it: `reject`.
    database: encryptedAdapter(adapter, { envelope, plaintext: 'reject' }),
    emailAndPassword: {
      enabled: true,
      minPasswordLength: MIN_PASSWORD_LENGTH,
      // Without a mail server nobody could ever confirm an address.
      requireEmailVerification: mailer.delivers,
      revokeSessionsOnPasswordReset: true,
      sendResetPassword: ({ user: { email }, token }) =>
        mailer.send({
          to: email,
          subject: 'Choose a new password',
          text: `To choose a new password, open:\n\n${config.publicUrl.origin}/new-password?token=${token}\n\nIf this was not you, ignore this mail.`,
        }),
    },
    emailVerification: {
      sendOnSignUp: true,
      sendOnSignIn: mailer.delivers,
      sendVerificationEmail: ({ user: { email }, url }) =>
        mailer.send({
          to: email,
          subject: 'Confirm your e-mail address',
          text: `To confirm that this address is yours, open:\n\n${url}\n\nIf you made no account at Keyring, do not open it: somebody else did, with your address.`,
        }),
    },
    user: { deleteUser: { enabled: true } },
    // Who reads the database finds no token that chooses a new password.
    verification: { storeIdentifier: 'hashed' },
    // Nobody comes into another's account because of an e-mail address alone.
    account: { accountLinking: { disableImplicitLinking: true } },
    session: { expiresIn: 7 * 24 * 60 * MINUTE, updateAge: 24 * 60 * MINUTE, freshAge: 15 * MINUTE },
    rateLimit: {
      enabled: true,
      // In the database: the limit holds for all processes together, and outlives a restart.
      storage: 'database',
      window: MINUTE,
      max: 120,
      customRules: {
        '/sign-in/email': { window: MINUTE, max: 5 },
        '/sign-up/email': { window: MINUTE, max: 5 },
        '/sign-in/social': { window: MINUTE, max: 10 },
        '/delete-user': { window: MINUTE, max: 5 },
        '/request-password-reset': { window: MINUTE, max: 3 },
        '/reset-password': { window: MINUTE, max: 5 },
      },
    },
    advanced: {
      useSecureCookies: config.publicUrl.protocol === 'https:',
      ipAddress: { ipAddressHeaders: [CLIENT_ADDRESS_HEADER] },
    },
    plugins: config.oauth === null ? [] : [genericOAuth({ config: [oauthProvider(config.oauth)] })],
    // `throw`: what is no answer to the client comes out of the handler (web/auth-forms.ts). Better Auth's router would print the
    // error itself, past `logger`: that of a failed query has its parameters in it, such as the token of a new password.
    onAPIError: { errorURL: `${config.publicUrl.origin}/sign-in`, throw: true },
    telemetry: { enabled: false },
    // Its messages only: the arguments are errors of the database, with parameters in them.
    logger: {
      level: 'error',
      log: (level, message) => log(`auth.${level}`, { message: firstLine(message) }),
    },
  })
}

const oauthProvider = ({ discoveryUrl, clientId, clientSecret }: NonNullable<Config['oauth']>) => ({
  providerId: OAUTH_PROVIDER,
  discoveryUrl,
  clientId,
  clientSecret,
  scopes: ['openid', 'email', 'profile'],
  pkce: true,
})

/** Of a message that an error was formatted into, no more than what stands before its parameters. */
function firstLine(message: unknown): string {
  const [line = ''] = String(message).split('\n')
  return line.replace(/(failed query|params).*/i, '$1 …').slice(0, 200)
}
