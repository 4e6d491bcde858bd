/** Finds out who is signed in, and binds forms to their session. */
import { createHmac, timingSafeEqual } from 'node:crypto'
import { createMiddleware } from 'hono/factory'
import { HTTPException } from 'hono/http-exception'
import type { AppContext, AppEnv, Services, SignedIn } from './services.js'

export function sessions({ auth, config }: Services) {
  return createMiddleware<AppEnv>(async (c, next) => {
    const { headers, response } = await auth.api.getSession({
      headers: c.req.raw.headers,
      returnHeaders: true,
    })
    c.set('signedIn', response === null ? null : signedInFrom(response))
    // A session that is used goes on: its cookie is set again.
    for (const cookie of headers?.getSetCookie() ?? []) c.header('set-cookie', cookie, { append: true })
    await next()
  })

  function signedInFrom({
    user,
    session,
  }: NonNullable<Awaited<ReturnType<typeof auth.api.getSession>>>): SignedIn {
    const { id, name, email, emailVerified } = user
    const isOperator = id === config.operatorUserId
    return { userId: id, name, email, emailVerified, isOperator, csrfToken: csrfTokenOf(session.token) }
  }

  function csrfTokenOf(sessionToken: string): string {
    return createHmac('sha256', config.authSecret).update(`csrf\0${sessionToken}`).digest('base64url')
  }
}

/** Nobody is signed in: they are sent to the page where they can. */
export const signedInOnly = createMiddleware<AppEnv>(async (c, next) => {
  if (c.get('signedIn') === null) return c.redirect('/sign-in', 303)
  return next()
})

/** For everybody else the operator's pages are not there. */
export const operatorOnly = createMiddleware<AppEnv>(async (c, next) => {
  if (c.get('signedIn')?.isOperator !== true) return c.notFound()
  return next()
})

export function signedInTo(c: AppContext): SignedIn {
  const signedIn = c.get('signedIn')
  if (signedIn === null) throw new HTTPException(401)
  return signedIn
}

/**
 * The fields of a form. In a session, the form must have the session's token in it; that it comes from one of our own pages at all,
 * security.ts has checked.
 *
 * @throws HTTPException 403
 */
export async function formOf(c: AppContext): Promise<Record<string, string>> {
  const fields: Record<string, string> = {}
  for (const [name, value] of Object.entries(await c.req.parseBody()))
    if (typeof value === 'string') fields[name] = value
  const signedIn = c.get('signedIn')
  if (signedIn !== null && !isEqual(fields.csrf ?? '', signedIn.csrfToken))
    throw new HTTPException(403, {
      message: 'This form is of another session. Open the page anew, and send it again.',
    })
  return fields
}

function isEqual(given: string, expected: string): boolean {
  const [a, b] = [Buffer.from(given), Buffer.from(expected)]
  return a.length === b.length && timingSafeEqual(a, b)
}
