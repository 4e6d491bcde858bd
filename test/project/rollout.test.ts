/** The path of docs/REENCRYPT.md from a plaintext table to the check constraint, with services of both versions at work in each step. */
import { execFile } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type Database from 'better-sqlite3'
import { drizzle as drizzleSqlite } from 'drizzle-orm/better-sqlite3'
import { migrate as migrateSqlite } from 'drizzle-orm/better-sqlite3/migrator'
import { drizzle as drizzlePostgres } from 'drizzle-orm/node-postgres'
import { migrate as migratePostgres } from 'drizzle-orm/node-postgres/migrator'
import type pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { isToken } from '../../src/index.js'
import { type ChildScript, startChild } from '../support/child-process.js'
import { type Dialect, dialects } from '../support/databases.js'
import { codeBlocks, runShellBlocks } from '../support/documents.js'
import { errorOf } from '../support/errors.js'
import { type HostCommands, hostCommands } from '../support/host-commands.js'
import { linkPackages } from '../support/host-project.js'
import { root } from '../support/root.js'

type Step = 'plain' | 'read' | 'write' | 'strict'

const guide = readFileSync(join(root, 'docs/REENCRYPT.md'), 'utf8')
const section = /^## From a plaintext table to the check constraint$.*?(?=^## )/ms.exec(guide)?.[0] ?? ''
const [before = '', encrypted = '', after = '', registry = '', ...others] = codeBlocks(section, 'ts')
const [dryRun = '', sweep = '', doctor = '', ...otherCommands] = codeBlocks(section, 'sh')
const [split = '', ...otherStatements] = codeBlocks(section, 'sql')

it('runs all code of the section', () => {
  expect([before, encrypted, after, registry, dryRun, sweep, doctor, split]).not.toContain('')
  expect([others, otherCommands, otherStatements]).toEqual([[], [], []])
  expect(section.match(/^```/gm)).toHaveLength(16)
})

/** With the imports of the dialect. The plain column of Postgres is one that is too narrow. */
function forDialect(dialect: Dialect, code: string): string {
  if (dialect === 'sqlite') return code
  return code
    .replace('drizzle-keystore/drizzle/sqlite', 'drizzle-keystore/drizzle/postgres')
    .replace('drizzle-orm/sqlite-core', 'drizzle-orm/pg-core')
    .replaceAll('sqliteTable', 'pgTable')
}

function plainFor(dialect: Dialect): string {
  if (dialect === 'sqlite') return before
  return forDialect(dialect, before)
    .replace("apiKey: text('api_key')", "apiKey: varchar('api_key', { length: 80 })")
    .replace('{ pgTable, text }', '{ pgTable, text, varchar }')
}

describe.each(dialects)('on %s', (dialect) => {
  let host: HostCommands
  let folder: string
  let running: { step: Step; child: ChildScript }[]
  beforeEach(async () => {
    host = await hostCommands(dialect)
    folder = host.store.folder
    running = []
    // The table of the other tests of commands.
    await host.app.query('drop table credentials')
    if (dialect === 'sqlite') await host.app.query('pragma journal_mode = wal')
    linkPackages(folder, 'drizzle-orm', 'drizzle-kit', 'better-sqlite3', 'pg')
    write('schema.ts', plainFor(dialect))
    write('plain.mjs', plainFor(dialect))
    write('encrypted.mjs', forDialect(dialect, encrypted))
    write('dist/encrypted.js', forDialect(dialect, encrypted))
    write('package.json', '{ "type": "module" }')
    const config = {
      dialect: dialect === 'sqlite' ? 'sqlite' : 'postgresql',
      schema: './schema.ts',
      out: './drizzle',
    }
    write('drizzle.config.json', JSON.stringify(config))
  })
  afterEach(async () => {
    for (const { child } of running) child.kill()
    await host.remove()
  })

  function write(name: string, text: string): void {
    if (name.startsWith('dist/')) mkdirSync(join(folder, 'dist'), { recursive: true })
    writeFileSync(join(folder, name), text)
  }

  const kit = (...args: string[]) =>
    promisify(execFile)(
      process.execPath,
      [join(root, 'node_modules/drizzle-kit/bin.cjs'), ...args, '--config', 'drizzle.config.json'],
      { cwd: folder },
    )
  const migrations = () =>
    readdirSync(join(folder, 'drizzle'))
      .filter((name) => name.endsWith('.sql'))
      .sort()
  const sqlOf = (name: string | undefined) => readFileSync(join(folder, 'drizzle', String(name)), 'utf8')
  async function migrate(): Promise<void> {
    const migrationsFolder = join(folder, 'drizzle')
    if (dialect === 'sqlite')
      migrateSqlite(drizzleSqlite({ client: host.app.client as Database.Database }), { migrationsFolder })
    else await migratePostgres(drizzlePostgres({ client: host.app.client as pg.Pool }), { migrationsFolder })
  }
  /** Takes the migrations after the first `count` out of drizzle-kit's journal, until they are wanted. */
  function applyOnly(count: number): void {
    const path = join(folder, 'drizzle/meta/_journal.json')
    const journal = JSON.parse(readFileSync(path, 'utf8'))
    allEntries ??= journal.entries
    writeFileSync(path, JSON.stringify({ ...journal, entries: (allEntries ?? []).slice(0, count) }))
  }
  let allEntries: unknown[] | undefined

  async function start(step: Step, count: number): Promise<void> {
    const started = Array.from({ length: count }, () => ({
      step,
      child: startChild('rollout-service.mjs', [folder, dialect, host.app.url, step], {
        ...host.store.env,
        API_KEY_MASTER_KEY_FILE: join(folder, 'keys/a.key'),
      }),
    }))
    running.push(...started)
    for (const { child } of started) expect(await child.line()).toBe('ready')
  }
  /** Ends the services of a step: each has read and written, and nothing went wrong. */
  async function stop(step: Step): Promise<void> {
    for (const { child } of running.filter((service) => service.step === step)) {
      const ended = child.ended()
      const report = JSON.parse((await child.rest()).at(-1) ?? '')
      expect(await ended).toEqual({ code: 0, stderr: '' })
      expect(report).toMatchObject({ failures: [] })
      expect(report.read).toBeGreaterThan(3)
      expect(report.written).toBeGreaterThan(3)
    }
    running = running.filter((service) => service.step !== step)
  }
  const atWork = () => new Promise((resolve) => setTimeout(resolve, 400))
  const stored = async () =>
    (await host.app.query('select api_key from credentials order by id')).map(({ api_key }) => api_key)

  it('comes from plaintext to the check constraint, and no service fails in any step', {
    timeout: 240_000,
  }, async () => {
    const { app } = host
    await kit('generate', '--name', 'first')
    await migrate()
    await host.withService((envelope) =>
      envelope.encryptMany(Array.from({ length: 5 }, (_, n) => ({ userId: `user-${n}`, plaintext: 'x' }))),
    )
    await app.insert(
      'credentials',
      Array.from({ length: 60 }, (_, id) => ({
        id: String(id),
        user_id: `user-${id % 5}`,
        api_key: `sk-${id}-0`,
      })),
    )
    await start('plain', 2)

    // drizzle-kit's one file for the whole way fails over plaintext rows, and changes nothing.
    write('schema.ts', forDialect(dialect, after))
    await kit('generate', '--name', 'encrypted')
    const [, whole] = migrations()
    expect(sqlOf(whole)).toContain('api_key_token_check')
    await errorOf(migrate())
    const type = 'ALTER TABLE "credentials" ALTER COLUMN "api_key" SET DATA TYPE text;'
    let toApply = 1
    if (dialect === 'postgres') {
      // Split as the guide shows it.
      const statements = sqlOf(whole)
        .split('--> statement-breakpoint')
        .map((statement) => statement.trim())
      const [now, later] = split.split('-- 0002_token_check.sql: in step 5\n')
      expect(statements).toHaveLength(2)
      expect([statements[0], statements[1]]).toEqual([now?.split('\n')[1], later?.trim()])
      await kit('generate', '--custom', '--name', 'token_check')
      const [, , custom] = migrations()
      write(`drizzle/${whole}`, type)
      write(`drizzle/${custom}`, statements[1] ?? '')
      toApply = 2
    }
    const shell = { ...host.store.env, DATABASE_URL: app.url }
    const command = (text: string) =>
      text
        .trim()
        .replace(/^npx keystore /, '')
        .split(' ')
    const first = host.run(command(dryRun))
    expect(first.status).toBe(dialect === 'postgres' ? 1 : 0)
    if (dialect === 'postgres') expect(first.stdout).toContain('of type text first')
    applyOnly(toApply)
    await migrate()
    expect(runShellBlocks(folder, [dryRun], shell)).toMatch(
      /would re-encrypt \d+ values[\s\S]*No value would be left/,
    )

    await start('read', 2)
    await atWork()
    await stop('plain')
    await atWork()
    expect((await stored()).filter((value) => isToken(value))).toEqual([])

    await start('write', 2)
    await atWork()
    await stop('read')
    await atWork()
    expect((await stored()).filter((value) => isToken(value)).length).toBeGreaterThan(5)
    expect((await stored()).filter((value) => !isToken(value)).length).toBeGreaterThan(5)

    expect(host.run(command(sweep)).stdout).toContain('No value is left in an old state.')
    expect((await stored()).filter((value) => !isToken(value))).toEqual([])

    await start('strict', 2)
    await atWork()
    await stop('write')
    applyOnly(3)
    await migrate()
    await atWork()
    await stop('strict')
    expect((await stored()).filter((value) => !isToken(value))).toEqual([])
    const refused = await errorOf(app.query(`update credentials set api_key = 'sk-plain' where id = '1'`))
    expect(String(refused.message)).toContain('api_key_token_check')
    write('dist/schema.js', forDialect(dialect, after))
    write('dist/encrypted.js', registry)
    const finding = (report: { findings: { kind: string; reason: string }[] }) =>
      report.findings.filter(({ reason }) => reason.includes('credentials'))
    const checked = host.json<{ findings: { kind: string; reason: string }[] }>(command(doctor))
    expect(finding(checked.report)).toEqual([])
    expect(host.json<{ tables: object[] }>(command(sweep)).report.tables).toMatchObject([
      { left: 0, changed: 0 },
    ])
    // drizzle-kit has nothing left to do.
    expect((await kit('generate')).stdout).toContain('No schema changes')
  })
})
