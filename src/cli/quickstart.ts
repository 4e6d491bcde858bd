/** `keystore quickstart`: the whole road, from secrets to a file of tokens and back. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Command } from 'commander'
import type { EnvelopeCrypto } from '../envelope/envelope-crypto.js'
import { ownCommand, packageFile, repeatedOptions, shellWord } from './command-line.js'
import { openEnvelope } from './envelope.js'
import { EXAMPLE_SECRETS, type ExampleSecret } from './example-secrets.js'
import { ignoreInGit, storeFile } from './git-ignore.js'
import { findOrMakeMasterKeys } from './master-keys.js'
import { describeMigration } from './migrate.js'
import { type EnvelopeOptions, openStore, withEnvelopeOptions } from './options.js'
import { counted, plainTable } from './output.js'

interface QuickstartOptions extends EnvelopeOptions {
  readonly out: string
}

export function quickstartCommand(): Command {
  return withEnvelopeOptions(new Command('quickstart'))
    .description('Encrypt secrets into a file of tokens, read them back, decrypt and compare.')
    .argument('[file]', 'lines of {"user": "…", "name": "…", "secret": "…"} (default: 20 made-up secrets)')
    .option('--out <path>', 'where the tokens go', 'data/sealed.jsonl')
    .action(quickstart)
}

async function quickstart(
  file: string | undefined,
  options: QuickstartOptions,
  command: Command,
): Promise<void> {
  const secrets = file === undefined ? EXAMPLE_SECRETS : readLines(file, ['user', 'name', 'secret'])
  const { masterKeys, said, file: keyFile } = findOrMakeMasterKeys(options)
  console.log(said)
  const store = await openStore(options)
  try {
    console.log(`Key store:  ${describeMigration(await store.ready())}`)
    ignoreInGit([keyFile, storeFile(options.store)].filter((path) => path !== null))
    const envelope = await openEnvelope(store, masterKeys, options)
    await seal(envelope, secrets, options.out)
    const failed = await verify(envelope, secrets, options.out)
    const users = new Set(secrets.map(({ user }) => user)).size
    if (failed > 0) {
      console.error(`${failed} of ${secrets.length} secrets did not come back as they were.`)
      process.exitCode = 1
    } else {
      const what = `${counted(secrets.length, 'secret')} of ${counted(users, 'user')}`
      console.log(`${what} encrypted into ${options.out}, read back, decrypted, compared: all ok.`)
      console.log(nextSteps(secrets, options, command))
    }
  } finally {
    await store.close()
  }
}

async function seal(envelope: EnvelopeCrypto, secrets: readonly ExampleSecret[], out: string): Promise<void> {
  let lines = ''
  for (const { user, name, secret } of secrets) {
    const sealed = { user, name, token: await envelope.encrypt(user, secret, { name }) }
    lines += `${JSON.stringify(sealed)}\n`
  }
  mkdirSync(dirname(out), { recursive: true, mode: 0o700 })
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
  const table = plainTable(['user', 'name', 'secret', 'token', 'ok'])
  let failed = 0
  const sealed = readLines(out, ['user', 'name', 'token'])
  for (const [index, { user, name, token }] of sealed.entries()) {
    const expected = secrets[index]?.secret
    const ok = (await envelope.decrypt(user, token, { name })) === expected
    if (!ok) failed += 1
    table.push([
      shortened(user),
      shortened(name),
      masked(expected ?? ''),
      `${token.slice(0, 16)}…`,
      ok ? 'ok' : 'FAILED',
    ])
  }
  console.log(table.toString())
  return failed + Math.abs(secrets.length - sealed.length)
}

/** JSON Lines with these string fields. Messages name the line, never what stands in it. */
function readLines<Field extends string>(file: string, fields: readonly Field[]): Record<Field, string>[] {
  if (!existsSync(file)) throw new Error(`There is no file ${file}`)
  const lines = readFileSync(file, 'utf8').split(/\r?\n/)
  return lines.flatMap((line, index) => {
    if (line.trim() === '') return []
    const value = parsed(line)
    if (fields.every((field) => typeof value?.[field] === 'string')) return [value as Record<Field, string>]
    const wanted = fields.map((field) => `"${field}": "…"`).join(', ')
    throw new Error(`${file}, line ${index + 1}, is not {${wanted}}`)
  })
}

function parsed(line: string): Record<string, unknown> | null {
  try {
    return JSON.parse(line)
  } catch {
    return null
  }
}

/** The first three characters of a long secret and its length; of a short one the length only. */
function masked(secret: string): string {
  const characters = Array.from(secret)
  const start = characters.length >= 12 ? visible(characters.slice(0, 3).join('')) : ''
  return `${start}•••••• (${characters.length})`
}

function shortened(text: string): string {
  const characters = Array.from(visible(text))
  return characters.length > 28 ? `${characters.slice(0, 27).join('')}…` : characters.join('')
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
