/** Whose request it is, for the limits. */
import { isIP } from 'node:net'
import { getConnInfo } from '@hono/node-server/conninfo'
import type { Config } from '../config.js'
import { log } from '../log.js'
import type { AppContext } from './services.js'

let hasWarned = false

/**
 * The peer's address, or what our proxy has appended: everything before that in X-Forwarded-For is the client's own word. Always an
 * address: with anything else Better Auth would count all clients as one.
 */
export function clientAddress(c: AppContext, { trustProxy }: Pick<Config, 'trustProxy'>): string {
  const header = c.req.header('x-forwarded-for')
  if (header !== undefined && !trustProxy && !hasWarned) {
    hasWarned = true
    log('proxy.notTrusted', {
      hint: 'Requests have X-Forwarded-For. If a proxy of yours sets it, set TRUST_PROXY=true: all its clients share one limit now.',
    })
  }
  const forwarded = trustProxy ? header?.split(',').at(-1) : undefined
  return withoutPort(forwarded) ?? getConnInfo(c).remote.address ?? '127.0.0.1'
}

/** Some proxies send the client's port too: 192.0.2.1:5678, [2001:db8::1]:5678. @returns null for what is no address */
function withoutPort(text = ''): string | null {
  const address = text.trim().replace(/^\[(.*)\](:\d+)?$|^([\d.]+):\d+$/, '$1$3')
  return isIP(address) === 0 ? null : address
}
