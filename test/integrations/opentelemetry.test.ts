/** Metrics and spans, collected by OpenTelemetry's own SDK with its exporters in memory. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { readFileSync } from 'node:fs'
import { type Context, type ContextManager, context, ROOT_CONTEXT, SpanStatusCode } from '@opentelemetry/api'
import {
  AggregationTemporality,
  DataPointType,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from '@opentelemetry/sdk-metrics'
import {
  BasicTracerProvider,
  InMemorySpanExporter,
  type ReadableSpan,
  SimpleSpanProcessor,
} from '@opentelemetry/sdk-trace-base'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { EVENT_TYPES } from '../../src/events.js'
import {
  generateMasterKey,
  localMasterKey,
  masterKeyring,
  rewrapAll,
  rotateWhere,
  verifyAll,
} from '../../src/index.js'
import { type Instrumentation, instrumentKeystore } from '../../src/integrations/opentelemetry.js'
import { reencrypt } from '../../src/reencrypt/index.js'
import { codeBlocks } from '../support/documents.js'
import { errorOf } from '../support/errors.js'
import { backends, freshStoreOfEachTest, untilListening } from '../support/fresh-store.js'
import { everythingOf } from '../support/leaks.js'
import { memorySource } from '../support/memory-source.js'

const exporter = new InMemorySpanExporter()
const tracer = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }).getTracer('t')

let metricExporter: InMemoryMetricExporter
let meters: MeterProvider
const running: Instrumentation[] = []
beforeEach(() => {
  exporter.reset()
  metricExporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE)
  const reader = new PeriodicExportingMetricReader({
    exporter: metricExporter,
    exportIntervalMillis: 3_600_000,
  })
  meters = new MeterProvider({ readers: [reader] })
})
afterEach(async () => {
  for (const instrumentation of running.splice(0)) instrumentation.stop()
  await meters.shutdown()
})

function instrument(...[envelope, options]: Parameters<typeof instrumentKeystore>): Instrumentation {
  const instrumentation = instrumentKeystore(envelope, options)
  running.push(instrumentation)
  return instrumentation
}

const meter = () => meters.getMeter('test')

/** The sums, by metric and attributes; of a histogram the number of values. */
async function measured(): Promise<Record<string, number>> {
  metricExporter.reset()
  await meters.forceFlush()
  const sums: Record<string, number> = {}
  for (const { scopeMetrics } of metricExporter.getMetrics())
    for (const { metrics } of scopeMetrics)
      for (const metric of metrics)
        for (const point of metric.dataPoints) {
          const name = [metric.descriptor.name, ...Object.values(point.attributes)].join(' ')
          const { value } = point
          sums[name] = typeof value === 'number' ? value : value.count
          if (metric.dataPointType === DataPointType.HISTOGRAM) expect(metric.descriptor.unit).toBe('s')
        }
  return sums
}

const spans = () => exporter.getFinishedSpans()
const named = (span: ReadableSpan | undefined) => [span?.name, span?.events.map(({ name }) => name)]

describe.each(backends)('instrumentKeystore on %s', (backend) => {
  const of = freshStoreOfEachTest(backend)

  it('counts events, measures calls and work on keys, and observes the cache', async () => {
    const { test, store } = of
    const masterKeys = localMasterKey(generateMasterKey())
    const envelope = await test.open({ masterKeys })
    instrument(envelope, { meter: meter() })
    const token = await envelope.encrypt('alice', 'hush', { name: 'x' })
    await envelope.decrypt('alice', token, { name: 'x' })
    await envelope.encryptMany([{ userId: 'alice', plaintext: 'hush' }])
    await envelope.rotateUserKey('alice')
    expect(await errorOf(envelope.decrypt('alice', token))).toMatchObject({ code: 'ERR_DECRYPTION_FAILED' })
    const next = localMasterKey(generateMasterKey())
    await rewrapAll({ store, masterKeys: masterKeyring({ primary: next, previous: [masterKeys] }) })
    await envelope.shredUser('alice')
    // Whether a key has to be unwrapped again after a rotation depends on the store.
    const found = Object.entries(await measured()).filter(([name]) => !name.endsWith(' unwrapped'))
    expect(Object.fromEntries(found)).toEqual({
      'drizzle_keystore.events minted': 1,
      'drizzle_keystore.events rotated': 1,
      'drizzle_keystore.events decryptFailed v3': 1,
      'drizzle_keystore.events rewrapped': 1,
      'drizzle_keystore.events shredded': 1,
      'drizzle_keystore.keys minted': 1,
      'drizzle_keystore.keys rotated': 1,
      'drizzle_keystore.keys rewrapped': 2,
      'drizzle_keystore.keys shredded': 2,
      'drizzle_keystore.key.duration minted': 1,
      'drizzle_keystore.key.duration rotated': 1,
      'drizzle_keystore.key.duration rewrapped': 1,
      'drizzle_keystore.key.duration shredded': 1,
      'drizzle_keystore.call.duration encrypt': 1,
      'drizzle_keystore.call.duration decrypt': 1,
      'drizzle_keystore.call.duration decrypt ERR_DECRYPTION_FAILED': 1,
      'drizzle_keystore.call.duration encryptMany': 1,
      'drizzle_keystore.call.duration rotateUserKey': 1,
      'drizzle_keystore.call.duration rewrapAll': 1,
      'drizzle_keystore.call.duration shredUser': 1,
      'drizzle_keystore.cache.hits': envelope.cacheStats.hits,
      'drizzle_keystore.cache.misses': envelope.cacheStats.misses,
      'drizzle_keystore.cache.users': envelope.cacheStats.users,
    })
    expect(envelope.cacheStats.hits).toBeGreaterThan(0)
  })

  it('makes a span of each call, with the events of its keys', async () => {
    const { test, store } = of
    await untilListening(store, backend)
    const masterKeys = localMasterKey(generateMasterKey())
    const envelope = await test.open({ masterKeys })
    instrument(envelope, { tracer })
    const token = await envelope.encrypt('alice', 'hush')
    await envelope.pool.encrypt('hush')
    const fresh = await test.open({ masterKeys })
    await fresh.decrypt('alice', token)
    await fresh.decryptMany([{ userId: 'bob', token }])
    await fresh.scope('carol', (handle) => handle.encrypt('hush'))
    await rotateWhere({ store, masterKeys, olderThanMs: 0 })
    await verifyAll({ store, masterKeys })
    await reencrypt({ envelope, source: memorySource([]) })
    expect(spans().map(named)).toEqual([
      ['keystore encrypt', ['drizzle_keystore.minted']],
      ['keystore pool.encrypt', ['drizzle_keystore.minted']],
      ['keystore decrypt', ['drizzle_keystore.unwrapped']],
      ['keystore decryptMany', []],
      ['keystore user', ['drizzle_keystore.minted']],
      ['keystore rotateWhere', Array(3).fill('drizzle_keystore.rotated')],
      ['keystore verifyAll', []],
      ['keystore reencrypt', []],
    ])
    for (const { duration, status } of spans()) {
      expect(duration[0] * 1e9 + duration[1]).toBeGreaterThan(0)
      expect(status.code).toBe(SpanStatusCode.UNSET)
    }
  })

  it('has no id, token, plaintext, context or error text in anything, unless ids are wanted', async () => {
    const envelope = await of.test.open()
    const use = async () => {
      const token = await envelope.encrypt('ursula', 'plain-text', { name: 'con-text' })
      expect(await envelope.decrypt('ursula', token, { name: 'con-text' })).toBe('plain-text')
      await envelope.pool.encrypt('pool-secret')
      await errorOf(envelope.decrypt('ursula', token))
      await errorOf(envelope.decrypt('viktor', token))
      await errorOf(envelope.encrypt('', 'plain-text'))
      return token
    }
    const all = async () => {
      await measured()
      // Without the SDK's own objects, which refer to one another.
      const told = spans().map(({ name, attributes, events, status }) => ({
        name,
        attributes,
        events,
        status,
      }))
      return everythingOf([told, metricExporter.getMetrics()])
    }
    instrument(envelope, { meter: meter(), tracer })
    const token = await use()
    const shown = await all()
    const secrets = ['plain-text', 'con-text', 'pool-secret', token.slice(0, 20)]
    for (const part of [...secrets, 'ursula', 'viktor', 'local:']) expect(shown).not.toContain(part)
    expect(shown).toContain('ERR_KEY_NOT_FOUND')

    running.pop()?.stop()
    instrument(envelope, { meter: meter(), tracer, ids: true })
    exporter.reset()
    await use()
    const withIds = await all()
    for (const part of secrets) expect(withIds).not.toContain(part)
    expect(withIds).toContain('ursula')
    expect(spans()[0]?.attributes).toEqual({ 'drizzle_keystore.call': 'encrypt', 'user.id': 'ursula' })
    await measured()
    expect(everythingOf(metricExporter.getMetrics())).not.toContain('ursula')
  })

  it('marks spans of calls that failed with the code', async () => {
    const envelope = await of.test.open()
    instrument(undefined, { tracer })
    await errorOf(envelope.decrypt('alice', await envelope.encrypt('bob', 'x')))
    const [, failed] = spans()
    expect(failed?.status).toEqual({ code: SpanStatusCode.ERROR, message: 'ERR_KEY_NOT_FOUND' })
    expect(failed?.attributes['error.type']).toBe('ERR_KEY_NOT_FOUND')
  })
})

describe('instrumentKeystore', () => {
  const of = freshStoreOfEachTest('memory')

  it("makes spans below the application's span", async () => {
    context.setGlobalContextManager(asyncContextManager())
    const envelope = await of.test.open()
    instrument(envelope, { tracer })
    await tracer.startActiveSpan('request', async (span) => {
      await envelope.encrypt('alice', 'x')
      span.end()
    })
    context.disable()
    const [ours, request] = spans()
    expect(ours?.parentSpanContext?.spanId).toBe(request?.spanContext().spanId)
  })

  it('tells nothing more after stop(), ends spans of calls that are under way, and leaves no subscriber', async () => {
    const envelope = await of.test.open()
    {
      using _ = instrumentKeystore(envelope, { meter: meter(), tracer })
      await envelope.encrypt('alice', 'x')
    }
    const before = await measured()
    await envelope.encrypt('alice', 'y')
    expect(spans()).toHaveLength(1)
    // The cache is observed no more, the counters stay.
    expect(await measured()).toEqual(
      Object.fromEntries(Object.entries(before).filter(([name]) => !name.includes('.cache.'))),
    )
    const instrumentation = instrument(envelope, { tracer })
    const pending = envelope.encrypt('bob', 'x')
    instrumentation.stop()
    instrumentation.stop()
    expect(spans()).toHaveLength(2)
    await pending
    expect(spans()).toHaveLength(2)
  })

  it('refuses what is no meter, tracer or service, and neither of them', () => {
    const refused = { code: 'ERR_INVALID_ARGUMENT' }
    const calls = [
      () => instrumentKeystore(undefined, {}),
      () => instrumentKeystore(undefined, undefined as never),
      () => instrumentKeystore(undefined, { meter: {} as never }),
      () => instrumentKeystore(undefined, { tracer: 'x' as never }),
      () => instrumentKeystore({} as never, { tracer }),
      () => instrumentKeystore(undefined, { tracer, ids: 'yes' as never }),
      () => instrumentKeystore(undefined, { tracers: tracer } as never),
    ]
    for (const call of calls) expect(call).toThrow(expect.objectContaining(refused))
  })
})

describe('docs/EVENTS.md', () => {
  const guide = readFileSync('docs/EVENTS.md', 'utf8')
  const firstCells = (from: string, to: string) => {
    const section = guide.slice(guide.indexOf(from), guide.indexOf(to))
    return [...section.matchAll(/^\| `([\w.]+)` \|/gm)].map(([, name]) => name)
  }

  it('lists every event and every metric', () => {
    const metrics: string[] = []
    const noting = (name: string) => {
      metrics.push(name)
      return { add() {}, record() {}, addCallback() {}, removeCallback() {} }
    }
    instrument(
      { cacheStats: { hits: 0, misses: 0, users: 0 } },
      {
        meter: {
          createCounter: noting,
          createHistogram: noting,
          createObservableCounter: noting,
          createObservableGauge: noting,
        },
      },
    )
    expect(firstCells('## Events', '## Calls')).toEqual(EVENT_TYPES)
    expect(firstCells('## OpenTelemetry', 'The cache is').sort()).toEqual(metrics.sort())
  })

  it('has an example that works as it stands there', async () => {
    const [block = ''] = codeBlocks(guide, 'ts')
    const body = block.replaceAll(/^import .*$/gm, '').replace(/^telemetry.stop.*$/m, 'return telemetry')
    const telemetry = new Function('envelope', 'metrics', 'trace', 'instrumentKeystore', body)(
      undefined,
      { getMeter: (name: string) => meters.getMeter(name) },
      { getTracer: () => tracer },
      instrumentKeystore,
    ) as Instrumentation
    running.push(telemetry)
    const envelope = await of.test.open()
    await envelope.encrypt('alice', 'x')
    expect(spans().map(({ name }) => name)).toEqual(['keystore encrypt'])
    expect(await measured()).toMatchObject({ 'drizzle_keystore.call.duration encrypt': 1 })
  })
  const of = freshStoreOfEachTest('memory')
})

describe('the channel drizzle-keystore:call', () => {
  const of = freshStoreOfEachTest('memory')

  it('has one message for a call, without its result', async () => {
    const told: [string, unknown][] = []
    const listeners = ['start', 'asyncEnd', 'error'].map((name) => {
      const listener = (message: unknown) => void told.push([name, { ...(message as object) }])
      subscribe(`tracing:drizzle-keystore:call:${name}`, listener)
      return () => unsubscribe(`tracing:drizzle-keystore:call:${name}`, listener)
    })
    const envelope = await of.test.open()
    const token = await envelope.encrypt('alice', 'x')
    const secret = await envelope.decryptSecret('alice', token)
    expect(secret.reveal()).toBe('x')
    const error = await errorOf(envelope.pool.decrypt('no token'))
    for (const stop of listeners) stop()
    expect(told).toEqual([
      ['start', { call: 'encrypt', userId: 'alice' }],
      ['asyncEnd', { call: 'encrypt', userId: 'alice', result: undefined }],
      ['start', { call: 'decrypt', userId: 'alice' }],
      ['asyncEnd', { call: 'decrypt', userId: 'alice', result: undefined }],
      ['start', { call: 'pool.decrypt' }],
      ['error', { call: 'pool.decrypt', error }],
      ['asyncEnd', { call: 'pool.decrypt', error }],
    ])
  })
})

/** As @opentelemetry/context-async-hooks has it. */
function asyncContextManager(): ContextManager {
  const storage = new AsyncLocalStorage<Context>()
  const manager: ContextManager = {
    active: () => storage.getStore() ?? ROOT_CONTEXT,
    with: (active, fn, self, ...args) => storage.run(active, () => fn.apply(self as never, args)),
    bind: (_, target) => target,
    enable: () => manager,
    disable: () => manager,
  }
  return manager
}
