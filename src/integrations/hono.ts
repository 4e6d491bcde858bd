/** Hono. Exported as `drizzle-keystore/hono`. Its context is taken as it comes, and no package of it is loaded. */
import type { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import type { ScopeOptions } from '../envelope/user-handle.js'
import { invalidArgument } from '../errors.js'
import { kindOf, ownOptions } from '../validate.js'

/** What is known of Hono's context where TypeScript cannot infer its type, as in `app.use`. For more of it, annotate the parameter: `Context<Env>`. */
export interface HonoContext {
  // biome-ignore lint/suspicious/noExplicitAny: a variable of the application, as Hono's own untyped context gives it
  get(key: string): any
  readonly req: { header(name: string): string | undefined; readonly raw: Request }
}

/** The user of a request: an id, or null or undefined if nobody is signed in. */
export type UserOfRequest<Context> = (
  context: Context,
) => string | null | undefined | PromiseLike<string | null | undefined>

/**
 * Middleware that handles each request in the scope of its user, as `envelope.scope` does. A request of nobody is handled without a scope, where
 * encrypted columns throw ERR_NO_SCOPE. Mount it behind the middleware that finds out who is signed in.
 *
 * What runs after the response was returned, such as the `pull` of a stream, is outside the scope: read what it needs before. A callback of
 * Hono's `stream` and `streamSSE` begins in the handler, and stays in its scope to its end.
 *
 * @param userOf never from what the client says about itself, such as a header: from its session
 * @param options those of `envelope.scope`, such as `onUnreadable`
 * @throws ERR_INVALID_ARGUMENT. The middleware throws like `envelope.scope`
 * @example
 * app.use(keystoreScope(envelope, (c) => c.get('session')?.userId))
 * app.get('/credentials', async (c) => c.json(await db.select().from(credentials).where(eq(credentials.userId, c.get('session').userId))))
 */
export function keystoreScope<Context = HonoContext>(
  envelope: EnvelopeCrypto,
  userOf: UserOfRequest<Context>,
  options: ScopeOptions = {},
): (context: Context, next: () => Promise<void>) => Promise<void> {
  if (typeof envelope?.scope !== 'function')
    throw invalidArgument(`envelope must be what EnvelopeCrypto.open returns, got ${kindOf(envelope)}`)
  if (typeof userOf !== 'function')
    throw invalidArgument(`userOf must be a function of the context, got ${kindOf(userOf)}`)
  const own = ownOptions(options)
  return async (context, next) => {
    const userId = await userOf(context)
    if (userId === null || userId === undefined) return next()
    await envelope.scope(userId, next, own)
  }
}
