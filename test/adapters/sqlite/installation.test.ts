/** What the SQLite store says of a better-sqlite3 that does not run here. */
import { describe, expect, it } from 'vitest'
import { runInApplication } from '../../support/bare-application.js'
import { cleanUpAfterEach } from '../../support/cleanups.js'

const OPEN = `
  import { sqliteKeyStore } from 'drizzle-keystore/sqlite'
  const store = sqliteKeyStore({ path: 'keys.db' })
  await store.ready().catch(({ code, message }) => console.log(code, message))`

/** A stand-in, since one machine has one version. */
function betterSqlite3(engines: string, construct: string) {
  return {
    name: 'better-sqlite3',
    files: {
      'package.json': JSON.stringify({ version: '13.2.0', main: 'index.js', engines: { node: engines } }),
      'index.js': `module.exports = class Database { constructor() { ${construct} } }`,
    },
  }
}

describe('a better-sqlite3', () => {
  const cleanups = cleanUpAfterEach()
  const say = (engines: string, construct: string) =>
    runInApplication(cleanups.folder(), [betterSqlite3(engines, construct)], OPEN)

  it('for a newer Node.js is not loaded, since it would end the process', async () => {
    expect(await say('>=99', `process.kill(process.pid, 'SIGSEGV')`)).toMatch(
      /^ERR_STORE better-sqlite3 13\.2\.0 needs Node\.js 99 or newer, this is .*npm install better-sqlite3@12\n$/,
    )
  })

  it('that was built for another Node.js is to be built again', async () => {
    const failure = `throw Object.assign(new Error("The module '/app/better_sqlite3.node'\\nwas compiled against a different Node.js version using\\n" +
      "NODE_MODULE_VERSION 127. This version of Node.js requires\\nNODE_MODULE_VERSION 115."), { code: 'ERR_DLOPEN_FAILED' })`
    expect(await say('>=20', failure)).toMatch(
      /^ERR_STORE .*built for another Node\.js \(module version 127, this one needs 115\): npm rebuild better-sqlite3\)\n$/,
    )
  })

  it('that was never built is to be built', async () => {
    const failure = `throw new Error('Could not locate the bindings file. Tried: /app/build/better_sqlite3.node')`
    expect(await say('20.x || 22.x', failure)).toMatch(/^ERR_STORE .*npm rebuild better-sqlite3\)\n$/)
  })
})
