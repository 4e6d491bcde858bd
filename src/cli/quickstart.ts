/** `keystore quickstart`: the whole road, from secrets to a file of tokens and back. */
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Command } from 'commander'
import type { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import { invalidArgument, isKeystoreError, KeystoreError } from '../errors.js'
import { assertFilePath, makeFolders } from '../folders.js'

import { ownCommand, packageFile, repeatedOptions, shellWord } from './command-line.js'
import { openEnvelope } from './envelope.js'
import { EXAMPLE_SECRETS, type ExampleSecret } from './example-secrets.js'
import { storeName } from './existing-store.js'
import { ignoreInGit, storeFile } from './git-ignore.js'
import { openOrMakeStore } from './made-store.js'
import { describeMigration } from './migrate.js'
import { type EnvelopeOptions, withEnvelopeOptions } from './options.js'
import { counted, thousands } from './output.js'
import { say, sayError } from './say.js'
import { printTable } from './tables.js'

interface QuickstartOptions extends EnvelopeOptions {
  readonly out: string
  readonly force?: boolean
}

/** A secret of the file, and where it stands, for messages. */
type SecretLine = ExampleSecret & { readonly place: string }

export function quickstartCommand(): Command {
  return withEnvelopeOptions(new Command('quickstart'))
    .description('Encrypt secrets into a file of tokens, read them back, decrypt and compare.')
    .argument('[file]', 'lines of {"user": "…", "name": "…", "secret": "…"} (default: 20 made-up secrets)')
    .option('--out <path>', 'where the tokens go', 'data/sealed.jsonl')
    .option('--force', 'replace the file of --out, whatever it holds')
    .addHelpText(
      'after',
      '\nExamples:\n  npx keystore quickstart\n  npx keystore quickstart secrets.jsonl --out tokens.jsonl',
    )
    .action(quickstart)
}

async function quickstart(
  file: string | undefined,
  options: QuickstartOptions,
  command: Command,
): Promise<void> {
  const secrets = file === undefined ? EXAMPLES : readLines(file, ['user', 'name', 'secret'])
  assertFilePath(options.out, 'the tokens', 'sealed.jsonl')
  if (!options.force) refuseToReplace(options.out)
  const { store, masterKeys, said, file: keyFile, migration } = await openOrMakeStore(options)
  try {
    say(said)
    say(`Key store:  ${storeName(options.store)}: ${describeMigration(migration)}`)
    ignoreInGit([keyFile, storeFile(options.store)].filter((path) => path !== null))
    const envelope = await openEnvelope(store, masterKeys, options)
    await seal(envelope, secrets, options.out)
    const failed = await verify(envelope, secrets, options.out)
    const users = new Set(secrets.map(({ user }) => user)).size
    if (failed > 0) {
      sayError(`${thousands(failed)} of ${counted(secrets.length, 'secret')} did not come back as they were.`)
      process.exitCode = 1
    } else {
      const what = `${counted(secrets.length, 'secret')} of ${counted(users, 'user')}`
      say(`${what} encrypted into ${options.out}, read back, decrypted, compared: all ok.`)
      say(nextSteps(secrets, options, command))
    }
  } finally {
    await store.close()
  }
}

const EXAMPLES: readonly SecretLine[] = EXAMPLE_SECRETS.map((secret, index) => ({
  ...secret,
  place: `example ${index + 1}`,
}))

/** Tokens of the made-up secrets may be replaced. Others may be the only copy that somebody has. */
function refuseToReplace(out: string): void {
  if (!existsSync(out) || isExample(out)) return
  throw invalidArgument(
    `${out} is there already, with tokens that are not those of the made-up secrets: --force replaces it, or choose another name with --out`,
  )
}

function isExample(out: string): boolean {
  const ownerOf = ({ user, name }: Record<'user' | 'name', string>) => JSON.stringify([user, name])
  try {
    const sealed = readLines(out, ['user', 'name', 'token']).map(ownerOf)
    return sealed.join() === EXAMPLE_SECRETS.map(ownerOf).join()
  } catch {
    return false
  }
}

async function seal(envelope: EnvelopeCrypto, secrets: readonly SecretLine[], out: string): Promise<void> {
  let lines = ''
  for (const { user, name, secret, place } of secrets) {
    const token = await envelope.encrypt(user, secret, { name }).catch((error) => {
      throw isKeystoreError(error) ? new KeystoreError(error.code, `${place}: ${error.message}`) : error
    })
    lines += `${JSON.stringify({ user, name, token })}\n`
  }
  makeFolders(dirname(out))
  // Whole or not at all: the file of an earlier run is replaced in one step.
  writeFileSync(`${out}.new`, lines, { mode: 0o600 })
  renameSync(`${out}.new`, out)
}

/** @returns how many secrets are not what they were */
async function verify(
  envelope: EnvelopeCrypto,
  secrets: readonly ExampleSecret[],
  out: string,
): Promise<number> {
  const rows: string[][] = []
  let failed = 0
  const sealed = readLines(out, ['user', 'name', 'token'])
  for (const [index, { user, name, token }] of sealed.entries()) {
    const expected = secrets[index]?.secret
    const ok = (await envelope.decrypt(user, token, { name })) === expected
    if (!ok) failed += 1
    rows.push([
      shortened(user),
      shortened(name),
      masked(expected ?? ''),
      `${token.slice(0, 16)}…`,
      ok ? 'ok' : 'FAILED',
    ])
  }
  // Fits 80 columns.
  const narrower = rows.map(([user = '', name = '', secret = '', token = '', ok = '']) => [
    shortened(user, 20),
    shortened(name, 16),
    secret,
    shortened(token, 9),
    ok,
  ])
  const head = ['user', 'name', 'secret', 'token', 'ok']
  printTable(head, rows, { head, rows: narrower })
  return failed + Math.abs(secrets.length - sealed.length)
}

/** JSON Lines with these string fields. Messages name the line and the field, never what stands in it. */
function readLines<Field extends string>(
  file: string,
  fields: readonly Field[],
): (Record<Field, string> & { readonly place: string })[] {
  if (!existsSync(file)) throw new Error(`There is no file ${file}`)
  const lines = readFileSync(file, 'utf8').split(/\r?\n/)
  const values = lines.flatMap((line, index) => {
    if (line.trim() === '') return []
    const place = `${file}, line ${index + 1}`
    const value = parsed(line)
    const problem = problemOf(value, fields)
    if (problem === null) return [{ ...(value as Record<Field, string>), place }]
    const wanted = fields.map((field) => `"${field}": "…"`).join(', ')
    throw new Error(`${place}: ${problem}. Each line must be {${wanted}}`)
  })
  if (values.length === 0) throw new Error(`${file} has no lines`)
  return values
}

/** @returns undefined if it is not JSON, which has no such value */
function parsed(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}

/** @returns null if it is an object with these texts */
function problemOf(value: unknown, fields: readonly string[]): string | null {
  if (value === undefined) return 'it is not valid JSON'
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'it is not a JSON object'
  const found = new Map<string, unknown>(Object.entries(value))
  for (const field of fields) {
    if (!found.has(field)) return `it has no "${field}"`
    if (typeof found.get(field) !== 'string') return `"${field}" is not a string`
  }
  return null
}

/** The first three characters of a long secret and its length; of a short one the length only. */
function masked(secret: string): string {
  const characters = Array.from(secret)
  const start = characters.length >= 12 ? visible(characters.slice(0, 3).join('')) : ''
  return `${start}•••••• (${thousands(characters.length)})`
}

function shortened(text: string, most = 28): string {
  const characters = Array.from(visible(text))
  return characters.length > most ? `${characters.slice(0, most - 1).join('')}…` : characters.join('')
}

/** With a dot for each character that a terminal would obey, hide or end the line at. */
function visible(text: string): string {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, '·')
}

/** Commands to try on the same store. */
function nextSteps(secrets: readonly ExampleSecret[], { out }: QuickstartOptions, command: Command): string {
  const keystore = ownCommand()
  const store = repeatedOptions(command, ['store'])
  const all = repeatedOptions(command, [
    'store',
    'masterKeyFile',
    'previousKeyFile',
    'format',
    'acceptV2',
    'keyLog',
  ])
  const [{ user } = { user: '' }] = secrets
  // An id with a control character or a leading dash is nothing to print, or to type.
  const owner = /^\w[\w@.+:/-]*$/.test(user) ? user : 'alice'
  const words = `--user ${owner} --context name=mine${all}`
  const token = shellWord(join(dirname(out), 'token.txt'))
  return `
Go on in this folder:
  printf %s 'my secret' | ${keystore} encrypt ${words} > ${token}
  ${keystore} decrypt ${words} < ${token}
  ${keystore} status${store}
Read on: ${packageFile('README.md')} for the library, ${packageFile('docs/OPERATIONS.md')} for keys in production.`
}
