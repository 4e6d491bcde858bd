/**
 * Calls for tracing: each is published on the tracing channel `drizzle-keystore:call` of node:diagnostics_channel, which is
 * `tracing:drizzle-keystore:call:start`, `:end`, `:asyncStart`, `:asyncEnd` and `:error`. Without a subscriber a call costs no more than
 * the question whether there is one. Messages never have a result, a plaintext, a token or a context.
 */
import { type TracingChannel, tracingChannel } from 'node:diagnostics_channel'

/** The message on the channels: one object for each call, the same on all of them. */
export interface TracedCall {
  /** The method or function, such as `encrypt`, `pool.encrypt` or `rewrapAll`. */
  readonly call: string
  readonly userId?: string
  readonly tenantId?: string
  /** Items of a bulk call. */
  readonly count?: number
  /** What the call rejected with, as node:diagnostics_channel sets it. */
  readonly error?: unknown
}

export const tracedCalls: TracingChannel<unknown, TracedCall> = tracingChannel('drizzle-keystore:call')

/** Publishes one call of a function. @param work never throws, but rejects */
export function traced<T>(call: string, work: () => Promise<T>): Promise<T> {
  return tracedCalls.hasSubscribers ? publishing({ call }, work) : work()
}

/** The method takes up to four arguments, and never throws, but rejects. */
type Method = (this: unknown, ...args: [unknown?, unknown?, unknown?, unknown?]) => Promise<unknown>

/** Names of methods, by what their first argument is: `secret` is not published. */
export type TracedMethods<Name extends string = string> = {
  readonly [Subject in 'userId' | 'tenantId' | 'items' | 'secret']?: readonly Name[]
}

/** Replaces methods of a class by ones that publish their calls. @param prefix of the calls' names */
export function traceMethods<Prototype extends object>(
  prototype: Prototype,
  methods: TracedMethods<keyof Prototype & string>,
  prefix = '',
): void {
  for (const [subject, names] of Object.entries(methods)) {
    for (const name of names as readonly (keyof Prototype & string)[]) {
      const method = prototype[name] as Method
      const call = prefix + name
      // Arguments by name: with a rest parameter each call would make an array.
      const { [name]: value } = {
        [name](this: unknown, a: unknown, b: unknown, c: unknown, d: unknown) {
          if (!tracedCalls.hasSubscribers) return method.call(this, a, b, c, d)
          return publishing({ call, ...subjectOf(subject, a) }, () => method.call(this, a, b, c, d))
        },
      }
      Object.defineProperty(prototype, name, { value, configurable: true, writable: true })
    }
  }
}

function subjectOf(subject: string, value: unknown): Partial<TracedCall> {
  if (subject === 'items') return Array.isArray(value) ? { count: value.length } : {}
  return subject !== 'secret' && typeof value === 'string' ? { [subject]: value } : {}
}

/** Node would set `result` of the message to what the call resolves with: a plaintext, for one. */
async function publishing<T>(message: TracedCall, work: () => Promise<T>): Promise<T> {
  let result!: T
  await tracedCalls.tracePromise(async () => {
    result = await work()
  }, message)
  return result
}
