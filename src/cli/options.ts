/** The options that several commands share, and what they open. */
import { type Command, InvalidArgumentError, Option } from 'commander'
import type { MigrateMode } from '../adapters/migrator.js'
import { type OpenedKeyStore, openKeyStore } from '../adapters/open.js'
import { StoreError } from '../errors.js'
import type { EncryptionContext } from '../format/context.js'
import type { Format } from '../format/formats.js'
import type { KeyStore, StoreMaintenance } from '../store.js'
import { type MasterKeyOptions, withMasterKeys } from './master-keys.js'

export const DEFAULT_STORE = 'sqlite:data/keystore.db'

export interface StoreOptions {
  readonly store: string
}

export interface AdoptOptions extends StoreOptions {
  readonly adopt?: boolean
}

export interface EnvelopeOptions extends AdoptOptions, MasterKeyOptions {
  readonly format?: Format
  readonly acceptV2?: boolean
}

/** What every command that reports has. */
export interface ReportOptions {
  readonly json?: boolean
}

export interface ChangeOptions extends ReportOptions {
  readonly dryRun?: boolean
}

/** @param flag the option's name; `copy` has two stores */
export function storeOption(flag: string, variable: string, what = ''): Option {
  return new Option(
    `--${flag} <url>`,
    `${what}a path, sqlite:… or postgres://…; put a URL with a password into the environment`,
  ).env(variable)
}

export function withStore(command: Command): Command {
  return command.addOption(storeOption('store', 'KEYSTORE_URL').default(DEFAULT_STORE))
}

/** For commands that may migrate. */
export function withAdoptableStore(command: Command): Command {
  return withStore(command).option('--adopt', 'take over a SQLite file of the Python reference')
}

export function withEnvelopeOptions(command: Command): Command {
  return withFormat(withAcceptV2(withMasterKeys(withAdoptableStore(command))))
}

export function withFormat(command: Command): Command {
  return command.addOption(
    new Option('--format <format>', "what is written (default: v3; v2 is the Python reference's)").choices([
      'v3',
      'v2',
    ]),
  )
}

export function withAcceptV2(command: Command): Command {
  return command.option(
    '--accept-v2',
    "read the Python reference's keys and tokens too, which are bound to no user",
  )
}

export function withJson(command: Command): Command {
  return command.option('--json', 'print the report as one JSON document')
}

export function withDryRun(command: Command): Command {
  return withJson(command).option('--dry-run', 'report what would be done, and change nothing')
}

export function withShredLog(command: Command, what: string): Command {
  return command.option('--shred-log <path>', what)
}

export function withUserAndContext(command: Command): Command {
  return command
    .requiredOption('--user <id>', 'the user whose key it is')
    .addOption(
      new Option('--context <name=value>', 'a pair of the context; may be repeated')
        .argParser(collectPair)
        .default({}, 'none'),
    )
}

function collectPair(pair: string, pairs: EncryptionContext): EncryptionContext {
  const at = pair.indexOf('=')
  if (at < 1) throw new InvalidArgumentError('It must be name=value.')
  return { ...pairs, [pair.slice(0, at)]: pair.slice(at + 1) }
}

/** For options that are counts: what is too large is the library's to say. */
export function wholeNumber(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError('It must be a whole number.')
  return Number(text)
}

export function openStore(options: AdoptOptions, migrate: MigrateMode = 'auto'): Promise<OpenedKeyStore> {
  return openKeyStore(options.store, { migrate, ...(options.adopt ? { adopt: true } : {}) })
}

/**
 * Opens a store that must be there, and closes it after `work`. It is not migrated and not made: whoever mistypes its name must not be
 * told that an empty one is in order.
 */
export async function withExistingStore<T>(
  options: StoreOptions,
  work: (store: OpenedKeyStore) => Promise<T>,
): Promise<T> {
  return closing(await openStore(options, 'check'), work)
}

/** Closes what was opened, whatever becomes of `work`. */
export async function closing<Opened extends { close(): Promise<void> }, T>(
  opened: Opened,
  work: (opened: Opened) => Promise<T>,
): Promise<T> {
  try {
    return await work(opened)
  } finally {
    await opened.close()
  }
}

/** What only stores of other makers may lack. */
export function maintenanceOf(store: KeyStore): StoreMaintenance {
  if (store.maintenance === undefined) throw new StoreError('This key store cannot be inspected')
  return store.maintenance
}
