/** What the pages work with, and what is known of a request. */
import type { HttpBindings } from '@hono/node-server'
import type { Context } from 'hono'
import type { Auth } from '../auth.js'
import type { Config } from '../config.js'
import type { OpenedDatabase } from '../database.js'
import type { ApiKeys } from '../keys.js'
import type { Keystore } from '../keystore.js'
import type { Limits } from '../limits.js'
import type { Operator } from '../operator.js'
import type { Providers } from '../providers.js'

export interface Services {
  readonly config: Config
  readonly database: OpenedDatabase
  readonly keystore: Keystore
  readonly auth: Auth
  readonly providers: Providers
  readonly keys: ApiKeys
  readonly limits: Limits
  readonly operator: Operator
  /** Whether mails reach their readers. */
  readonly deliversMail: boolean
}

/** Who is signed in. */
export interface SignedIn {
  readonly userId: string
  readonly name: string
  readonly email: string
  readonly emailVerified: boolean
  readonly isOperator: boolean
  /** For the forms of this session. */
  readonly csrfToken: string
}

export interface AppEnv {
  Bindings: HttpBindings
  Variables: { signedIn: SignedIn | null }
}

export type AppContext = Context<AppEnv>
