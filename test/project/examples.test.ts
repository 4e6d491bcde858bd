/** The example application is run as it stands there, on each dialect. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { generateMasterKey } from '../../src/index.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { type Dialect, dialects } from '../support/databases.js'
import { generateSql } from '../support/host-app.js'
import { hostProject } from '../support/host-project.js'
import { runSql } from '../support/raw-database.js'

describe.each(dialects)('examples/credentials on %s', (dialect) => {
  const cleanups = cleanUpAfterEach()

  it('has at most 60 lines and runs; only imports and URL differ between the dialects', async () => {
    const url = await cleanups.database(dialect)
    const sources = Object.fromEntries(
      ['schema.ts', 'app.ts'].map((name) => [
        name,
        forDialect(dialect, readFileSync(`examples/credentials/${name}`, 'utf8')),
      ]),
    )
    expect(Object.values(sources).join('').split('\n').length).toBeLessThanOrEqual(60)
    const project = hostProject(sources)
    cleanups.add(project.remove)
    for (const statement of generateSql(dialect, join(project.path, 'schema.ts')))
      await runSql(dialect, url, statement)
    const output = execFileSync(process.execPath, ['app.js'], {
      cwd: project.path,
      encoding: 'utf8',
      env: { ...process.env, APP_URL: url, API_KEY_MASTER_KEY: generateMasterKey() },
    })
    expect(output).toBe("a1 sk-alice\nBob's row in Alice's scope: ERR_DECRYPTION_FAILED\n")
  })
})

/** Makes the changes that the comments of the example name. */
function forDialect(dialect: Dialect, source: string): string {
  if (dialect === 'sqlite') return source
  return source
    .replace("from 'drizzle-keystore/drizzle/sqlite'", "from 'drizzle-keystore/drizzle/postgres'")
    .replace(
      "sqliteTable as table, text, uniqueIndex } from 'drizzle-orm/sqlite-core'",
      "pgTable as table, text, uniqueIndex } from 'drizzle-orm/pg-core'",
    )
    .replace("from 'drizzle-orm/better-sqlite3'", "from 'drizzle-orm/node-postgres'")
}
