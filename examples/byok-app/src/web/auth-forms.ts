/**
 * Our forms call Better Auth through its request handler and not through `auth.api`, so that its rate limit and its own check of the origin
 * hold. Only what a browser must reach itself is open under /api/auth: the way back from a provider, and the link in a mail.
 */
import { Hono } from 'hono'
import { CLIENT_ADDRESS_HEADER } from '../auth.js'
import { clientAddress } from './client-address.js'
import type { AppContext, AppEnv, Services } from './services.js'

export interface AuthAnswer {
  readonly ok: boolean
  readonly status: number
  /** Better Auth's code of an error, such as INVALID_PASSWORD; empty if there is none. */
  readonly code: string
  /** Seconds, if there were too many requests. */
  readonly retryAfter: number
  /** Where a provider asks who this is. */
  readonly url: string | null
}

/** Better Auth could not do its work, and that is not the fault of who asked. */
export class AuthUnavailable extends Error {}

async function answerTo(request: Request, { auth }: Services): Promise<Response> {
  try {
    return await auth.handler(request)
  } catch (cause) {
    throw new AuthUnavailable('Better Auth threw', { cause })
  }
}

/** Codes with which Better Auth tells a failure of the database as if the form were wrong. */
const FAILURES = ['FAILED_TO_CREATE_USER', 'FAILED_TO_CREATE_SESSION']

/** Of an answer with status 429. */
export function tooMany({ retryAfter }: Pick<AuthAnswer, 'retryAfter'>): string {
  const time = retryAfter <= 120 ? `${retryAfter} seconds` : `${Math.ceil(retryAfter / 60)} minutes`
  return `Too many attempts. Try again in ${time}.`
}

/**
 * Sends a form on to Better Auth, and its cookies back to the browser.
 *
 * @throws AuthUnavailable
 */
export async function callAuth(
  c: AppContext,
  services: Services,
  path: string,
  body: Readonly<Record<string, string | boolean | undefined>>,
): Promise<AuthAnswer> {
  const headers = forwardedHeaders(c, services)
  headers.set('content-type', 'application/json')
  headers.set('origin', services.config.publicUrl.origin)
  const url = `${services.config.publicUrl.origin}/api/auth${path}`
  const response = await answerTo(
    new Request(url, { method: 'POST', headers, body: JSON.stringify(body) }),
    services,
  )
  for (const cookie of response.headers.getSetCookie()) c.header('set-cookie', cookie, { append: true })
  const answer = (await response.json().catch(() => null)) as { code?: string; url?: string } | null
  const code = answer?.code ?? ''
  if (response.status >= 500 || FAILURES.includes(code)) throw new AuthUnavailable(code)
  return {
    ok: response.ok,
    status: response.status,
    code,
    retryAfter: Number(response.headers.get('x-retry-after') ?? 60),
    url: answer?.url ?? null,
  }
}

export function authCallbacks(services: Services) {
  const routes = new Hono<AppEnv>()
  /** Both lead on to a page. What Better Auth answers without one would be JSON. */
  const pass = async (c: AppContext, failure: string) => {
    const { pathname, search } = new URL(c.req.url)
    const url = `${services.config.publicUrl.origin}${pathname}${search}`
    const answer = await answerTo(new Request(url, { headers: forwardedHeaders(c, services) }), services)
    if (answer.status >= 500) throw new AuthUnavailable()
    return answer.headers.has('location') ? answer : c.redirect(`/sign-in?error=${failure}`, 303)
  }
  routes.get('/callback/:provider', (c) => pass(c, 'provider'))
  routes.get('/verify-email', (c) => pass(c, 'link'))
  return routes
}

const FORWARDED = [
  'cookie',
  'user-agent',
  'accept-language',
  'sec-fetch-site',
  'sec-fetch-mode',
  'sec-fetch-dest',
]

function forwardedHeaders(c: AppContext, { config }: Services): Headers {
  const headers = new Headers()
  for (const name of FORWARDED) {
    const value = c.req.header(name)
    if (value !== undefined) headers.set(name, value)
  }
  headers.set(CLIENT_ADDRESS_HEADER, clientAddress(c, config))
  return headers
}
