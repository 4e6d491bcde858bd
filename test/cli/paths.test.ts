/** Paths that no file can have: below /proc, of a folder, empty. Each command ends, writes nothing and says what to give. */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { generateMasterKey } from '../../src/index.js'
import { type CommandOptions, runKeystore } from '../support/command.js'
import { itIf } from '../support/conditional.js'
import { temporaryFolder } from '../support/databases.js'

let folder: ReturnType<typeof temporaryFolder>
beforeEach(() => {
  folder = temporaryFolder()
  mkdirSync(join(folder.path, 'd'))
  writeFileSync(join(folder.path, 'a.key'), generateMasterKey(), { mode: 0o600 })
  keystore(['init', '--store', 's.db', '--master-key-file', 'a.key'])
})
afterEach(() => folder.remove())

/** The store and the master key that are there are those of the environment. */
const keystore = (args: string[], options: CommandOptions = {}) =>
  runKeystore(folder.path, args, {
    timeoutMs: 60_000,
    ...options,
    env: { KEYSTORE_URL: 's.db', API_KEY_MASTER_KEY_FILE: 'a.key', ...options.env },
  })
const names = () => readdirSync(folder.path).sort()

/** The commands that make a file, and the option or argument that names it. */
const MAKERS = [
  ['init', '--store'],
  ['init', '--master-key-file'],
  ['quickstart', '--out'],
  ['copy', '--to'],
  ['new-master-key'],
  ['backup'],
]

itIf(existsSync('/proc/self'), 'there is no /proc')(
  'every command ends below /proc, where no folder can be made',
  () => {
    const ends = MAKERS.map((args) => {
      const { status, stderr } = keystore([...args, '/proc/none/file'])
      return [...args, status, /ENOENT: no such file or directory, mkdir '\/proc\/none'/.test(stderr)]
    })
    expect(ends).toEqual(MAKERS.map((args) => [...args, 1, true]))
  },
)

it.each(MAKERS)('a folder is no file for %s %s', (...args) => {
  const before = names()
  for (const path of ['d', 'd/', 'none/']) {
    const { status, stderr } = keystore([...args, path])
    expect(stderr).toContain(`${path} is a folder: name the file of `)
    expect(status).toBe(2)
  }
  expect(names()).toEqual(before)
})

it.each([
  ...MAKERS,
  ['status', '--store'],
  ['restore'],
  ['encrypt', '--user'],
  ['shred-user', '--yes'],
  ['doctor', '--schema'],
  ['status', '--store', 'd', '--store'],
  ['rewrap', '--previous-key-file'],
  ['rotate-user', '--older-than', '0', '--key-log'],
])('what is empty is named, as in %s %s "$UNSET"', (...args) => {
  const before = names()
  const { status, stdout, stderr } = keystore([...args, ''])
  const last = args.at(-1) ?? ''
  const isOption = last.startsWith('--') && last !== '--yes'
  expect(stderr).toMatch(
    isOption
      ? `keystore: ${last} is empty: give it a value, or leave it out`
      : /keystore: The argument \w+ is empty/,
  )
  expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
  expect(names()).toEqual(before)
})

it('an empty variable is named where it would name a store, and counts as unset for a key log', () => {
  for (const args of [['status'], ['init'], ['shred-user', 'alice', '--yes']]) {
    const { status, stderr } = keystore(args, { env: { KEYSTORE_URL: '' } })
    expect(stderr).toContain('KEYSTORE_URL is empty: give it a value, or unset it')
    expect(status).toBe(2)
  }
  expect(keystore(['init'], { env: { KEYSTORE_KEY_LOG: '' } }).status).toBe(0)
})
