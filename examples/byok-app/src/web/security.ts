/** What holds for every request: headers, no foreign forms, no large bodies, nothing in caches, and a line in the log. */
import { bodyLimit } from 'hono/body-limit'
import { csrf } from 'hono/csrf'
import { createMiddleware } from 'hono/factory'
import { HTTPException } from 'hono/http-exception'
import { secureHeaders } from 'hono/secure-headers'
import type { Config } from '../config.js'
import { log } from '../log.js'
import type { AppEnv } from './services.js'

/** Method, path, status and duration: no query string, no body, no header. */
export const requestLog = createMiddleware<AppEnv>(async (c, next) => {
  const start = performance.now()
  await next()
  const ms = Math.round(performance.now() - start)
  log('request', { method: c.req.method, path: c.req.path, status: c.res.status, ms })
})

export function securityHeaders({ publicUrl }: Config) {
  const isHttps = publicUrl.protocol === 'https:'
  return secureHeaders({
    contentSecurityPolicy: {
      defaultSrc: ["'none'"],
      scriptSrc: ["'self'"],
      styleSrc: ["'self'"],
      imgSrc: ["'self'"],
      connectSrc: ["'self'"],
      formAction: ["'self'"],
      frameAncestors: ["'none'"],
      baseUri: ["'none'"],
    },
    // With `no-referrer` browsers send `Origin: null` with forms, and no form could be told from a foreign one.
    referrerPolicy: 'same-origin',
    xFrameOptions: 'DENY',
    crossOriginEmbedderPolicy: 'require-corp',
    strictTransportSecurity: isHttps ? 'max-age=31536000; includeSubDomains' : false,
    permissionsPolicy: { camera: [], microphone: [], geolocation: [], payment: [] },
  })
}

/** A form that another site sends is refused: by Sec-Fetch-Site, or in older browsers by Origin. Without either, too. */
export const ownForms = ({ publicUrl }: Config) => csrf({ origin: publicUrl.origin })

/** Forms only: another type could pass by the check above. */
export const formsOnly = createMiddleware<AppEnv>(async (c, next) => {
  const isRead = c.req.method === 'GET' || c.req.method === 'HEAD'
  const type = c.req.header('content-type')?.split(';')[0]?.trim().toLowerCase()
  if (!isRead && type !== 'application/x-www-form-urlencoded')
    throw new HTTPException(415, { message: 'Only forms are taken here.' })
  await next()
})

export const smallBodies = bodyLimit({
  maxSize: 16 * 1024,
  onError: () => {
    throw new HTTPException(413, { message: 'This is too long.' })
  },
})

export const noStore = createMiddleware<AppEnv>(async (c, next) => {
  await next()
  if (!c.res.headers.has('cache-control')) c.header('cache-control', 'no-store')
})
