/**
 * The options that several commands share, and how stores are opened from them.
 *
 * Options for stores of format v2 are in no help, since nearly nobody has one: the guide and the errors about such stores name them.
 */
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { EncryptionContext } from '../format/context.js'
import type { Format } from '../format/formats.js'
import { loggedStore } from '../key-log/logged-store.js'
import type { KeyStore } from '../store.js'
import { type MasterKeyOptions, withMasterKeys } from './master-keys.js'

export const DEFAULT_STORE = 'sqlite:data/keystore.db'

export interface StoreOptions {
  readonly store: string
}

export interface AdoptOptions extends StoreOptions {
  readonly adopt?: boolean
}

export interface AcceptOptions {
  readonly acceptV2?: boolean
}

export interface EnvelopeOptions extends AdoptOptions, MasterKeyOptions, AcceptOptions, KeyLogOptions {
  readonly format?: Format
}

/** The options of every command that prints a report. */
export interface ReportOptions {
  readonly json?: boolean
}

export interface ChangeOptions extends ReportOptions {
  readonly dryRun?: boolean
}

/** @param flag the option's name, because `copy` has two stores */
export function storeOption(flag: string, variable: string, what = ''): Option {
  return new Option(
    `--${flag} <url>`,
    `${what}a path, sqlite:…, libsql://… or postgres://…; put a URL with a password into the environment variable`,
  ).env(variable)
}

export function withStore(command: Command): Command {
  return command.addOption(storeOption('store', 'KEYSTORE_URL').default(DEFAULT_STORE))
}

/** The store of a command that may migrate it. */
export function withAdoptableStore(command: Command): Command {
  return withStore(command).addOption(
    new Option(
      '--adopt',
      'once, for a SQLite file with a table of format v2 alone (docs/MIGRATING.md): rebuild it for this library; make a backup first',
    ).hideHelp(),
  )
}

export function withEnvelopeOptions(command: Command): Command {
  return withKeyLog(withFormat(withAcceptV2(withMasterKeys(withAdoptableStore(command)))))
}

export function withFormat(command: Command): Command {
  return command.addOption(
    new Option(
      '--format <format>',
      'the format to write (default: v3; v2 only if your store has it: docs/MIGRATING.md)',
    )
      .choices(['v3', 'v2'])
      .hideHelp(),
  )
}

export function withAcceptV2(command: Command): Command {
  return command.addOption(
    new Option(
      '--accept-v2',
      'also read keys and tokens of format v2, which binds them to no user; only if your store has it',
    ).hideHelp(),
  )
}

/** The formats to read besides the one written: what `--accept-v2` is to the `accept` options of the library. */
export function acceptedBesides({ acceptV2 = false }: AcceptOptions): readonly Format[] {
  return acceptV2 ? ['v2'] : []
}

export function withJson(command: Command): Command {
  return command.option('--json', 'print the report as one JSON document')
}

export function withDryRun(command: Command): Command {
  return withJson(command).option('--dry-run', 'report what would change, and change nothing')
}

export interface KeyLogOptions {
  readonly keyLog?: string
}

/** @param what what the command does with the log, if not record in it what it makes and removes */
export function withKeyLog(command: Command, what = RECORDED): Command {
  return command
    .addOption(new Option('--key-log <path>', what).env('KEYSTORE_KEY_LOG'))
    .hook('preAction', (_, action) => {
      // An empty variable is one that is not set.
      if (action.getOptionValue('keyLog') === '') action.setOptionValue('keyLog', undefined)
    })
}

const RECORDED =
  'a file outside the database and its backups: each key that is made, pruned or shredded is recorded there'

/** The store, which records in the key log if there is one. */
export function recordingStore<Store extends KeyStore>(store: Store, { keyLog }: KeyLogOptions): Store {
  return keyLog === undefined ? store : loggedStore(store, keyLog)
}

export function withUserAndContext(command: Command): Command {
  return command
    .requiredOption('--user <id>', "the user's id")
    .addOption(
      new Option('--context <name=value>', 'one name and value of the context; may be repeated')
        .argParser(collectPair)
        .default({}, 'none'),
    )
}

function collectPair(pair: string, pairs: EncryptionContext): EncryptionContext {
  const at = pair.indexOf('=')
  if (at < 1) throw new InvalidArgumentError('It must be name=value.')
  const name = pair.slice(0, at)
  if (Object.hasOwn(pairs, name))
    throw new InvalidArgumentError('The name was given twice: a context has one value for each name.')
  return { ...pairs, [name]: pair.slice(at + 1) }
}

/** Parses an option that is a count. The library refuses counts that are too large. */
export function wholeNumber(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError('It must be a whole number.')
  return Number(text)
}

const UNIT_MS: Readonly<Record<string, number>> = {
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 7 * 86_400_000,
}

/** Parses an option that is an age. @returns milliseconds */
export function parseDuration(text: string): number {
  if (text === '0') return 0
  const [, count, unit = ''] = /^(\d{1,6})([smhdw])$/.exec(text) ?? []
  const unitMs = UNIT_MS[unit]
  if (unitMs === undefined) throw new InvalidArgumentError('It must be like 90d, 12h, 30m, 45s, 2w, or 0.')
  return Number(count) * unitMs
}

/** Uses something that was opened, and closes it, also when `use` throws. */
export async function closeAfter<Opened extends { close(): Promise<void> }, T>(
  opened: Opened,
  use: (opened: Opened) => Promise<T>,
): Promise<T> {
  try {
    return await use(opened)
  } finally {
    await opened.close()
  }
}
