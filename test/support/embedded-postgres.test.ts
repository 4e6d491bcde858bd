/** The PostgreSQL server of the tests, where it does not find what it needs. */
import { chmodSync, cpSync, lstatSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { startChild } from './child-process.js'
import { itIf } from './conditional.js'
import { queryPostgres, temporaryFolder } from './databases.js'
import {
  type EmbeddedPostgresOptions,
  packagedBinaries,
  startEmbeddedPostgres,
} from './embedded-postgres.mjs'
import { errorOf } from './errors.js'

const isRoot = process.getuid?.() === 0
const onlyRoot = itIf(isRoot, 'only as root')

let closed: ReturnType<typeof temporaryFolder>
let open: ReturnType<typeof temporaryFolder>
beforeEach(() => {
  closed = temporaryFolder()
  chmodSync(closed.path, 0o700)
  open = temporaryFolder()
  chmodSync(open.path, 0o755)
})
afterEach(() => {
  closed.remove()
  open.remove()
})

const start = (options: Partial<EmbeddedPostgresOptions>) =>
  startEmbeddedPostgres({
    otherServer: 'Use a server of yours.',
    parents: [open.path],
    initdbFlags: ['--no-sync'],
    ...options,
  })

onlyRoot('runs from a copy where its user cannot reach the binaries, and leaves nothing behind', async () => {
  const binaries = join(closed.path, 'native')
  cpSync(packagedBinaries(), binaries, { recursive: true, verbatimSymlinks: true })
  const server = await start({ binaries })
  const [row] = await queryPostgres(server.url, 'show data_directory')
  const copy = join(dirname(String(row?.data_directory)), 'native')
  const links = (folder: string) =>
    readdirSync(join(folder, 'lib')).filter((name) => lstatSync(join(folder, 'lib', name)).isSymbolicLink())
  expect(links(copy)).toEqual(links(binaries))
  await server.remove()
  expect(readdirSync(open.path)).toEqual([])
})

onlyRoot('takes the next temporary folder where its user cannot reach the first', async () => {
  const server = await start({ parents: [closed.path, open.path] })
  expect(await queryPostgres(server.url, 'select 1 as one')).toEqual([{ one: 1 }])
  expect([readdirSync(closed.path), readdirSync(open.path)]).toEqual([[], [expect.any(String)]])
  await server.remove()
})

it('says in one error why it cannot be started, and what helps', async () => {
  const binaries = join(open.path, 'broken')
  mkdirSync(join(binaries, 'bin'), { recursive: true })
  for (const name of ['initdb', 'postgres'])
    writeFileSync(join(binaries, 'bin', name), '#!/bin/sh\necho "no library libx.so" >&2\nexit 127\n', {
      mode: 0o755,
    })
  const error = await errorOf(start({ binaries }))
  expect(error.message.split('\n')).toEqual([
    'PostgreSQL could not be started:',
    '  initdb ended with 127:',
    '    no library libx.so',
    'One of these helps:',
    ...(isRoot ? [expect.stringContaining('as an ordinary user')] : []),
    expect.stringContaining('TMPDIR'),
    '  - Use a server of yours.',
  ])
  expect(error.stack).toBe(`Error: ${error.message}`)
  expect((await errorOf(start({ binaries: join(open.path, 'none') }))).message).toContain('ENOENT')
  const log = (await errorOf(start({ settings: ['no_such_setting=1'] }))).message
  expect(log).toMatch(/ {2}postgres ended with 1:\n.*FATAL: .*"no_such_setting"/)
  expect(readdirSync(open.path)).toEqual(['broken'])
})

it.each([
  ['SIGHUP', 129],
  ['SIGTERM', 143],
])('ends with its process on %s', async (signal, code) => {
  const child = startChild('start-postgres.mjs', [open.path])
  const url = await child.line()
  await queryPostgres(url, 'select 1')
  child.send(signal)
  expect(await child.ended()).toMatchObject({ code })
  expect(readdirSync(open.path)).toEqual([])
  // Its last processes need a moment.
  await vi.waitFor(async () =>
    expect(await errorOf(queryPostgres(url, 'select 1'))).toMatchObject({ code: 'ECONNREFUSED' }),
  )
})
