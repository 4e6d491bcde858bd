/**
 * Metrics and spans of OpenTelemetry. Exported as `drizzle-keystore/opentelemetry`.
 *
 * It subscribes to the channels of node:diagnostics_channel: the events, and the traced calls. OpenTelemetry's meter and tracer are taken by
 * their shape, so that no package of it is needed and any 1.x version fits.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { invalidArgument } from '../errors.js'
import { durationSince, EVENT_TYPES, eventChannelName, type KeystoreEvent } from '../events.js'
import { type TracedCall, tracedCalls } from '../traced-calls.js'
import { kindOf, ownOptions } from '../validate.js'

type Attributes = Record<string, string | number>

interface MetricOptions {
  description?: string
  unit?: string
  advice?: { explicitBucketBoundaries?: number[] }
}

interface Observable {
  addCallback(callback: (result: { observe(value: number): void }) => void): void
  removeCallback(callback: (result: { observe(value: number): void }) => void): void
}

/** What is used of OpenTelemetry's `Meter`. */
export interface KeystoreMeter {
  createCounter(name: string, options?: MetricOptions): { add(value: number, attributes?: Attributes): void }
  createHistogram(
    name: string,
    options?: MetricOptions,
  ): { record(value: number, attributes?: Attributes): void }
  createObservableCounter(name: string, options?: MetricOptions): Observable
  createObservableGauge(name: string, options?: MetricOptions): Observable
}

interface Span {
  addEvent(name: string, attributes?: Attributes): unknown
  setAttribute(name: string, value: string | number): unknown
  setStatus(status: { code: number; message?: string }): unknown
  end(): void
}

/** What is used of OpenTelemetry's `Tracer`. */
export interface KeystoreTracer {
  startSpan(name: string, options?: { attributes?: Attributes }): Span
}

/** The options of {@link instrumentKeystore}. */
export interface InstrumentOptions {
  /** Such as `metrics.getMeter('drizzle-keystore')` of @opentelemetry/api. Without it there are no metrics. */
  readonly meter?: KeystoreMeter | undefined
  /** Such as `trace.getTracer('drizzle-keystore')` of @opentelemetry/api. Without it there are no spans. */
  readonly tracer?: KeystoreTracer | undefined
  /**
   * Whether spans tell ids: of users, tenants and master keys. A master key's id may name a tenant. Metrics never do, since each user would
   * be a time series. Default false.
   */
  readonly ids?: boolean | undefined
}

/** What `instrumentKeystore` has begun. */
export interface Instrumentation extends Disposable {
  /** Ends it: nothing more is recorded, and spans of calls that are under way end now. Idempotent. */
  stop(): void
}

/** A service, as far as its cache is measured. */
export interface MeasuredService {
  readonly cacheStats: { readonly hits: number; readonly misses: number; readonly users: number }
}

const PREFIX = 'drizzle_keystore'
/** SpanStatusCode.ERROR of OpenTelemetry. */
const STATUS_ERROR = 2
/** In seconds: from a key in memory to a key service that is waited for. */
const BOUNDARIES = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10]

/**
 * Turns this process's events and calls into metrics and spans: those of all its services and of long work such as `rewrapAll`. None of
 * them has a token, a plaintext, a key or a context.
 *
 * @param envelope the service whose cache is measured; without it the cache is not
 * @throws ERR_INVALID_ARGUMENT, also if neither a meter nor a tracer is given
 * @example
 * const telemetry = instrumentKeystore(envelope, {
 *   meter: metrics.getMeter('drizzle-keystore'),
 *   tracer: trace.getTracer('drizzle-keystore'),
 * })
 * telemetry.stop()
 */
export function instrumentKeystore(
  envelope: MeasuredService | undefined,
  options: InstrumentOptions,
): Instrumentation {
  const { meter, tracer, ids = false } = ownOptions(options ?? {})
  if (typeof ids !== 'boolean') throw invalidArgument(`ids must be a boolean, got ${kindOf(ids)}`)
  if (meter === undefined && tracer === undefined)
    throw invalidArgument(
      "Give meter or tracer, such as metrics.getMeter('drizzle-keystore') and trace.getTracer('drizzle-keystore') of @opentelemetry/api",
    )
  assertMethod('meter', meter, 'createCounter')
  assertMethod('tracer', tracer, 'startSpan')
  if (envelope !== undefined && typeof envelope?.cacheStats !== 'object')
    throw invalidArgument(`envelope must be an EnvelopeCrypto, got ${kindOf(envelope)}`)

  const stops: (() => void)[] = []
  const record = meter === undefined ? null : recorder(meter)
  if (meter !== undefined && envelope !== undefined) stops.push(observeCache(meter, envelope))
  const currentSpan = new AsyncLocalStorage<Span | undefined>()
  stops.push(subscribeToEvents(onEvent), subscribeToCalls(record, tracer, ids, currentSpan))
  return {
    stop,
    [Symbol.dispose]: stop,
  }

  function onEvent(event: KeystoreEvent): void {
    record?.event(event)
    currentSpan.getStore()?.addEvent(`${PREFIX}.${event.type}`, attributesOf(event, ids))
  }

  function stop(): void {
    for (const end of stops.splice(0)) end()
  }
}

function assertMethod(name: string, value: object | undefined, method: string): void {
  if (value === undefined) return
  if (typeof value !== 'object' || value === null || typeof Reflect.get(value, method) !== 'function')
    throw invalidArgument(`${name} must be a ${name} of OpenTelemetry, got ${kindOf(value)}`)
}

interface Recorder {
  event(event: KeystoreEvent): void
  call(call: string, durationMs: number, code: string | null): void
}

function recorder(meter: KeystoreMeter): Recorder {
  const events = meter.createCounter(`${PREFIX}.events`, {
    description: 'Events of the keystore',
    unit: '{event}',
  })
  const keys = meter.createCounter(`${PREFIX}.keys`, {
    description: 'Keys that events tell of: minted, unwrapped, rotated, rewrapped, erased, damaged, lost',
    unit: '{key}',
  })
  const seconds = { unit: 's', advice: { explicitBucketBoundaries: BOUNDARIES } }
  const work = meter.createHistogram(`${PREFIX}.key.duration`, {
    description: 'Duration of the work on keys, master key and store included',
    ...seconds,
  })
  const calls = meter.createHistogram(`${PREFIX}.call.duration`, {
    description: 'Duration of calls',
    ...seconds,
  })
  return {
    event(event) {
      const type = { [`${PREFIX}.event`]: event.type }
      events.add(1, { ...type, ...kindOfEvent(event) })
      const count = keysOf(event)
      if (count > 0) keys.add(count, type)
      if ('durationMs' in event) work.record(event.durationMs / 1000, type)
    },
    call(call, durationMs, code) {
      const failed = code === null ? {} : { 'error.type': code }
      calls.record(durationMs / 1000, { [`${PREFIX}.call`]: call, ...failed })
    },
  }
}

function keysOf(event: KeystoreEvent): number {
  switch (event.type) {
    case 'rewrapped':
    case 'keysLost':
      return event.count
    case 'shredded':
      return event.versions.length
    case 'minted':
    case 'unwrapped':
    case 'rotated':
    case 'damagedKey':
      return 1
    default:
      return 0
  }
}

/** What tells events of one type apart and has few values. */
function kindOfEvent(event: KeystoreEvent): Attributes {
  if (event.type === 'masterKeyUnavailable') return { [`${PREFIX}.reason`]: event.reason }
  if (event.type === 'decryptFailed') return { [`${PREFIX}.format`]: event.format }
  return {}
}

function attributesOf(event: KeystoreEvent, ids: boolean): Attributes {
  const attributes = kindOfEvent(event)
  if ('durationMs' in event) attributes[`${PREFIX}.duration_ms`] = event.durationMs
  if ('version' in event) attributes[`${PREFIX}.key.version`] = event.version
  if ('count' in event) attributes[`${PREFIX}.keys`] = event.count
  if (!ids) return attributes
  if ('userId' in event) attributes['user.id'] = event.userId
  if ('kekId' in event && event.kekId !== null) attributes[`${PREFIX}.kek.id`] = event.kekId
  return attributes
}

function observeCache(meter: KeystoreMeter, service: MeasuredService): () => void {
  const observe = (observable: Observable, read: () => number) => {
    const callback = (result: { observe(value: number): void }) => result.observe(read())
    observable.addCallback(callback)
    return () => observable.removeCallback(callback)
  }
  const stops = [
    observe(
      meter.createObservableCounter(`${PREFIX}.cache.hits`, {
        description: 'Calls whose key was in memory',
        unit: '{call}',
      }),
      () => service.cacheStats.hits,
    ),
    observe(
      meter.createObservableCounter(`${PREFIX}.cache.misses`, {
        description: 'Calls that had to ask the store',
        unit: '{call}',
      }),
      () => service.cacheStats.misses,
    ),
    observe(
      meter.createObservableGauge(`${PREFIX}.cache.users`, {
        description: 'Users whose keys are in memory',
        unit: '{user}',
      }),
      () => service.cacheStats.users,
    ),
  ]
  return () => {
    for (const stop of stops) stop()
  }
}

function subscribeToEvents(onEvent: (event: KeystoreEvent) => void): () => void {
  const listener = (message: unknown) => onEvent(message as KeystoreEvent)
  for (const type of EVENT_TYPES) subscribe(eventChannelName(type), listener)
  return () => {
    for (const type of EVENT_TYPES) unsubscribe(eventChannelName(type), listener)
  }
}

/** A span for each call, with the events that it causes: `currentSpan` has the span inside the call. */
function subscribeToCalls(
  record: Recorder | null,
  tracer: KeystoreTracer | undefined,
  ids: boolean,
  currentSpan: AsyncLocalStorage<Span | undefined>,
): () => void {
  const underWay = new Map<TracedCall, { readonly start: number; readonly span: Span | undefined }>()
  const begin = (message: TracedCall) => {
    const span = tracer?.startSpan(`keystore ${message.call}`, { attributes: attributesOfCall(message, ids) })
    underWay.set(message, { start: performance.now(), span })
    return span
  }
  const asyncEnd = (message: TracedCall) => {
    const begun = underWay.get(message)
    if (begun === undefined) return
    underWay.delete(message)
    const code = 'error' in message ? codeOf(message.error) : null
    record?.call(message.call, durationSince(begun.start), code)
    if (code !== null) {
      begun.span?.setAttribute('error.type', code)
      begun.span?.setStatus({ code: STATUS_ERROR, message: code })
    }
    begun.span?.end()
  }
  const asyncEndListener = (message: unknown) => asyncEnd(message as TracedCall)
  tracedCalls.start.bindStore(currentSpan, begin)
  tracedCalls.asyncEnd.subscribe(asyncEndListener)
  return () => {
    tracedCalls.start.unbindStore(currentSpan)
    tracedCalls.asyncEnd.unsubscribe(asyncEndListener)
    for (const { span } of underWay.values()) span?.end()
    underWay.clear()
  }
}

function attributesOfCall({ call, userId, tenantId, count }: TracedCall, ids: boolean): Attributes {
  return {
    [`${PREFIX}.call`]: call,
    ...(count === undefined ? {} : { [`${PREFIX}.items`]: count }),
    ...(ids && userId !== undefined ? { 'user.id': userId } : {}),
    ...(ids && tenantId !== undefined ? { [`${PREFIX}.tenant.id`]: tenantId } : {}),
  }
}

/** The code and no more: a message may name a user, and one that is not ours may hold anything. `_OTHER` is OpenTelemetry's word. */
function codeOf(error: unknown): string {
  const code: unknown = error instanceof Error && 'code' in error ? error.code : undefined
  return typeof code === 'string' && /^ERR_[A-Z_]+$/.test(code) ? code : '_OTHER'
}
