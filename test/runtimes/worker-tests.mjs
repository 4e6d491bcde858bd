/** Runs in Node.js: bundles Workers as wrangler does, and runs them in workerd. Arguments: the application's folder, a URL of Postgres. Prints reports in JSON. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { build } from 'esbuild'
import { Miniflare } from 'miniflare'

const [folder, postgresUrl] = process.argv.slice(2)
const RUNTIME = {
  compatibilityDate: '2026-06-01',
  compatibilityFlags: ['nodejs_compat'],
  d1Databases: ['DB'],
}
/** A request runs so many tests. */
const TESTS_AT_ONCE = 10

const reports = {
  D1: await suiteOn('d1'),
  'postgres-js': await suiteOn('postgres'),
  'examples/worker on D1': await exampleOn({}),
  'examples/worker on Postgres': await exampleOn({ POSTGRES_URL: postgresUrl }),
}
console.log(JSON.stringify(reports))

async function suiteOn(which) {
  return inWorkerd('test/runtimes/worker.mjs', { POSTGRES_URL: postgresUrl }, async (fetch) => {
    const report = { passed: 0, failed: [], total: 1 }
    for (let from = 0; from < report.total; from += TESTS_AT_ONCE) {
      const response = await fetch(`/?on=${which}&from=${from}&count=${TESTS_AT_ONCE}`)
      const { passed, failed, total } = JSON.parse(await response.text())
      report.passed += passed
      report.failed.push(...failed)
      report.total = total
    }
    return report
  })
}

async function exampleOn(bindings) {
  const MASTER_KEY = Buffer.alloc(32, 'k').fill('key', 3, 9).toString('base64url')
  return inWorkerd('examples/worker/worker.ts', { ...bindings, MASTER_KEY }, async (fetch) => {
    const post = (path, user, body) => fetch(path, { method: 'POST', body, headers: { 'x-user': user } })
    const text = async (...request) => (await post(...request)).text()
    const failed = []
    try {
      const token = await text('/encrypt', 'alice', 'sk-1')
      assert.match(token, /^v3:/)
      assert.equal(await text('/decrypt', 'alice', token), 'sk-1')
      assert.match(await text('/decrypt', 'bob', token), /ERR_KEY_NOT_FOUND/)
      assert.deepEqual(JSON.parse(await text('/rotate', 'alice')), { version: 2 })
      assert.notEqual((await text('/encrypt', 'alice', 'sk-1')).slice(0, 9), token.slice(0, 9))
      // Many at once, which are the first requests of their users.
      const users = Array.from({ length: 30 }, (_, i) => `user ${i % 10}`)
      const tokens = await Promise.all(users.map((user, i) => text('/encrypt', user, `secret ${i}`)))
      const opened = await Promise.all(tokens.map((each, i) => text('/decrypt', users[i], each)))
      assert.deepEqual(
        opened,
        users.map((_, i) => `secret ${i}`),
      )
      const { versions, erased } = JSON.parse(await text('/shred', 'alice'))
      assert.deepEqual({ versions, erased }, { versions: [1, 2], erased: 'pending' })
      assert.match(await text('/decrypt', 'alice', token), /ERR_KEY_SHREDDED/)
    } catch (error) {
      failed.push({ name: 'the example', error: String(error.stack) })
    }
    return { passed: 1 - failed.length, failed, total: 1 }
  })
}

async function inWorkerd(entry, bindings, work) {
  const { outputFiles } = await build({
    entryPoints: [join(folder, entry)],
    bundle: true,
    write: false,
    format: 'esm',
    target: 'es2024',
    conditions: ['workerd', 'worker', 'browser'],
    mainFields: ['browser', 'module', 'main'],
    external: ['node:*', 'cloudflare:*'],
    logLevel: 'error',
  })
  const contents = outputFiles[0].text
  const miniflare = new Miniflare({
    ...RUNTIME,
    bindings: Object.fromEntries(Object.entries(bindings).filter(([, value]) => value !== undefined)),
    modules: [{ type: 'ESModule', path: 'worker.mjs', contents }],
  })
  try {
    return await work((path, init) => miniflare.dispatchFetch(`http://worker${path}`, init))
  } finally {
    await miniflare.dispose()
  }
}
