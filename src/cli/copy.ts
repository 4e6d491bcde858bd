/** `keystore copy`, `backup` and `restore`: each copies one store into another. None needs a master key. */

import { Command } from 'commander'
import type { OpenedKeyStore } from '../adapters/open.js'
import { invalidArgument, isKeystoreError, type KeystoreError, StoreError, schemaError } from '../errors.js'
import { compareAll, type LostKeys } from '../key-log/lost-keys.js'
import { totalCount } from '../lifecycle/census.js'
import { CopiedRows, type CopyOnly } from '../lifecycle/copied-rows.js'
import { type ConflictingRow, type CopyConflict, type CopyReport, copyKeys } from '../lifecycle/copy.js'
import type { KeyStore } from '../store.js'
import { assertUserId } from '../validate.js'
import { openBackup, startBackup } from './backup-file.js'
import { inThisRuntime } from './command-line.js'
import { assertCanAsk, type ConfirmOptions, isTyped } from './confirm.js'
import {
  assertNoFolder,
  NoStoreError,
  openExistingStore,
  storeName,
  withExistingStore,
} from './existing-store.js'
import { keepNewStoreOutOfGit } from './git-ignore.js'
import { runLongCommand } from './long-command.js'
import { openStore } from './open-store.js'
import {
  type ChangeOptions,
  closeAfter,
  DEFAULT_STORE,
  type KeyLogOptions,
  type ReportOptions,
  type StoreOptions,
  storeOption,
  withDryRun,
  withJson,
  withKeyLog,
  withStore,
} from './options.js'
import {
  counted,
  countedOwners,
  kekName,
  ownerName,
  printJson,
  printSome,
  setExitCode,
  thousands,
} from './output.js'
import { printableSentence } from './printable.js'
import { printFailures } from './row-problems.js'
import { say, sayError } from './say.js'
import { printTable } from './tables.js'

interface CopyCommandOptions extends ChangeOptions, ConfirmOptions, KeyLogOptions {
  readonly applyErasures?: boolean
}

interface RestoreCommandOptions extends CopyCommandOptions {
  readonly user?: readonly string[]
  readonly tenant?: readonly string[]
  readonly pool?: boolean
}

/** The report of the library, and with a key log the keys that the target lacks afterwards. */
interface CopyCommandReport extends CopyReport {
  readonly lost?: LostKeys
}

const KEY_LOG =
  'a key log: the users whom it names as shredded are copied as erased, and keys that are missing in the end are named'

/** The options that copy and restore share. */
function withCopyOptions(command: Command): Command {
  return withKeyLog(withDryRun(command), KEY_LOG)
    .option(
      '--apply-erasures',
      'erase live keys of the target whose users the source has shredded; lists the users, and asks you to confirm it',
    )
    .option('--yes', 'do not ask')
}

export function copyCommand(): Command {
  return withCopyOptions(new Command('copy'))
    .description(
      'Copy every key exactly into another store, such as from SQLite to Postgres or back. Safe to repeat: a further run copies what was ' +
        'added meanwhile. If the target has another key for the same user and version, the row is named and nothing is written.',
    )
    .addOption(storeOption('from', 'KEYSTORE_URL', 'the source: ').default(DEFAULT_STORE))
    .addOption(storeOption('to', 'KEYSTORE_TO_URL', 'the target: ').makeOptionMandatory())
    .addHelpText(
      'after',
      '\nExample:\n  KEYSTORE_TO_URL=postgres://… npx keystore copy --from data/keystore.db',
    )
    .action(
      ({ from, to, ...options }: CopyCommandOptions & { readonly from: string; readonly to: string }) => {
        if (from === to) throw invalidArgument('--from and --to name the same store')
        return withExistingStore({ store: from }, (source) => copyInto(to, source, options, 'copy'))
      },
    )
}

export function restoreCommand(): Command {
  return withCopyOptions(withStore(new Command('restore')))
    .description('Copy a backup, or any SQLite key store, into the store. The file is only read.')
    .argument('<file>', 'a file that `npx keystore backup` made')
    .option('--user <id>', 'only the keys of this user; may be repeated', repeated)
    .option(
      '--tenant <id>',
      'only the key of this tenant, which its users need, and none of theirs; may be repeated',
      repeated,
    )
    .option('--pool', 'only the key of the pool')
    .addHelpText(
      'after',
      '\nExamples:\n  npx keystore restore backups/monday.db --store drill.db --key-log keys.jsonl\n' +
        '  npx keystore restore backups/monday.db --tenant acme --dry-run',
    )
    .action(async (file: string, { store, ...options }: StoreOptions & RestoreCommandOptions) =>
      closeAfter(await openBackup(file), (backup) =>
        copyInto(store, backup.store, options, 'restore', onlyOf(options)),
      ),
    )
}

function repeated(id: string, ids: readonly string[] = []): readonly string[] {
  return [...ids, id]
}

/** @returns undefined: all rows */
function onlyOf({ user, tenant = [], pool = false }: RestoreCommandOptions): CopyOnly | undefined {
  if (user === undefined && tenant.length === 0 && !pool) return undefined
  for (const userId of user ?? []) assertUserId(userId)
  return { users: [...(user ?? []), ...(pool ? [''] : [])], tenants: tenant }
}

export function backupCommand(): Command {
  return withJson(withStore(new Command('backup')))
    .description(
      'Copy the store into a new SQLite file (mode 0600). Until it is complete it is called FILE.partial, and a further run continues it. ' +
        'The backup does not hold the master key.',
    )
    .argument('<file>', 'the file to make; an existing file is never overwritten')
    .addHelpText('after', '\nExample:\n  npx keystore backup "backups/$(date +%F).db"')
    .action((file: string, options: StoreOptions & ReportOptions) =>
      withExistingStore(options, async (source) =>
        closeAfter(await startBackup(file), (backup) =>
          runLongCommand(
            options,
            async (controls) => {
              // Users who were shredded since an interrupted run are erased in the backup too.
              const stores = { from: source, to: backup.store, applyErasures: true }
              const report = await copyKeys({ ...controls, ...stores }).catch((error) => {
                throw isKeystoreError(error) ? conflictInPartial(error, backup.partial) : error
              })
              // The backup has every row that the store had when it began. Rows added meanwhile are for the next backup.
              const finished = report.complete && report.extra === 0
              if (finished) await backup.finish()
              return { ...report, finished }
            },
            (report) => {
              if (options.json) printJson(report)
              else {
                printCopyReport(report)
                say(
                  report.finished
                    ? `The backup is ${printableSentence(file)}.`
                    : inThisRuntime(printableSentence(unfinishedAdvice(report, backup.partial))),
                )
              }
              setExitCode(report.finished && report.failedCount === 0)
            },
          ),
        ),
      ),
    )
}

/** Says what to do if a row has changed since an interrupted run copied it: it was rewrapped, or forgotten and minted anew. */
function conflictInPartial(error: KeystoreError, partial: string): KeystoreError {
  const { ref } = error as StoreError
  if (ref === undefined || error.code !== 'ERR_CONFLICT') return error
  return new StoreError(`${error.message}. If the store is right, remove ${partial} and run this again`, {
    code: 'ERR_CONFLICT',
    ref,
  })
}

function unfinishedAdvice({ complete }: CopyReport, partial: string): string {
  if (complete) return `${partial} holds rows that the store no longer has: remove it, and run this again.`
  return `The backup is not complete yet: run this again to continue ${partial}.`
}

/** The target of a dry run, which makes none. @throws ERR_SCHEMA with what makes it: a URL stays in its variable, since it may hold a password */
async function existingTarget(url: string, command: 'copy' | 'restore'): Promise<OpenedKeyStore> {
  try {
    return await openExistingStore({ store: url })
  } catch (error) {
    if (!(error instanceof NoStoreError)) throw error
    const init =
      command === 'copy' ? 'KEYSTORE_URL="$KEYSTORE_TO_URL" npx keystore init' : 'npx keystore init'
    throw schemaError(
      `There is no store at ${storeName(url)}, and a dry run makes none: ${command} without --dry-run makes it. To try it out on an empty one first: \`${init}\``,
    )
  }
}

/** Creates or migrates the target first, unless it is a dry run. */
async function copyInto(
  url: string,
  from: KeyStore,
  options: CopyCommandOptions,
  command: 'copy' | 'restore',
  only?: CopyOnly,
): Promise<void> {
  const { dryRun = false, json, keyLog, applyErasures = false } = options
  const asks = applyErasures && !dryRun && options.yes !== true
  if (asks) assertCanAsk(options, 'erase what the source says')
  assertNoFolder(url)
  if (!dryRun) keepNewStoreOutOfGit(url)
  const target = dryRun ? await existingTarget(url, command) : await openStore(url)
  await closeAfter(target, async (to) => {
    const chosen = only === undefined ? {} : { only }
    const stores = { from, to, ...chosen, ...(keyLog === undefined ? {} : { keyLog }) }
    const erasures = asks
      ? await confirmedErasures((await copyKeys({ ...stores, dryRun: true })).refused)
      : applyErasures
    await runLongCommand(
      options,
      async (controls): Promise<CopyCommandReport> => {
        const report = await copyKeys({ ...controls, ...stores, dryRun, applyErasures: erasures })
        const isCompared = keyLog !== undefined && !dryRun && report.complete
        return isCompared ? { ...report, lost: await lostKeys(to, keyLog, only) } : report
      },
      (report) => {
        if (json) printJson(report)
        else printCopyReport(report, only)
        // Whoever names a key wants it back.
        setExitCode(isInOrder(report) && (only === undefined || report.ended.length === 0))
      },
    )
  })
}

/** The keys of a key log that the target lacks; of the chosen rows, if only these were copied. */
async function lostKeys(store: KeyStore, keyLog: string, only: CopyOnly | undefined): Promise<LostKeys> {
  const { keys: all } = await compareAll({ store, keyLog })
  const { userIds } = new CopiedRows(only)
  const keys = userIds === null ? all : all.filter(({ userId }) => userIds.includes(userId))
  return { count: keys.length, keys: keys.slice(0, MAX_LOST) }
}

/** The report lists so many, and counts all. */
const MAX_LOST = 1000

/** Extra rows at the target are no failure. Without any, unequal stores mean that rows are missing or have changed meanwhile. */
function isInOrder({
  dryRun,
  equal,
  extra,
  refused,
  conflictCount,
  failedCount,
  lost,
}: CopyCommandReport): boolean {
  if (failedCount > 0) return false
  if (dryRun) return refused.length === 0 && conflictCount === 0
  return (equal || extra > 0) && (lost?.count ?? 0) === 0
}

/** Lists the users, and has it confirmed that they are erased at the target. @returns the users: whoever is shredded meanwhile is not asked for */
async function confirmedErasures(users: readonly string[]): Promise<readonly string[]> {
  if (users.length === 0) return users
  const expected = `erase ${countedOwners(users)}`
  sayError(
    'The source says that these users were shredded. Their keys are live at the target, and what is encrypted under them can never be ' +
      `decrypted again:\n${users.map((userId) => `  ${ownerName(userId)}`).join('\n')}`,
  )
  if (!(await isTyped(`To erase them at the target type "${expected}": `, expected)))
    throw new Error(`What was typed is not "${expected}": nothing was copied and nothing erased`)
  return users
}

function printCopyReport(report: CopyCommandReport, only?: CopyOnly): void {
  const { dryRun, copied, shredded, extra, census, digest, equal, complete, lost } = report
  say(`${dryRun ? 'Would copy' : 'Copied'} ${counted(copied, 'row')}.`)
  if (shredded.length > 0) {
    say(`${dryRun ? 'Would erase' : 'Erased'} at the target, because the source or the key log says so:`)
    printSome(shredded.map(ownerName), shredded.length)
  }
  printEnded(report, only)
  printRefusals(report)
  if (report.failedCount > 0) {
    say(`${counted(report.failedCount, 'row')} not copied, because of what is wrong with them:`)
    printFailures(report.failed, report.failedCount)
  }
  printTable(
    ['', 'rows', `SHA-256 of ${only === undefined ? 'all' : 'these'} records`],
    (['from', 'to'] as const).map((side) => [
      side === 'from' ? 'source' : 'target',
      thousands(totalCount(census[side])),
      digest[side] ?? 'not compared',
    ]),
  )
  if (extra > 0)
    say(`The target has ${counted(extra, 'row')} that the source has not. They stay as they are.`)
  if (equal) say('Both hold the same records.')
  else if (complete && !dryRun && extra === 0 && report.failedCount === 0) say(WRITTEN_MEANWHILE)
  if (lost !== undefined && lost.count > 0) printLostKeys(lost)
}

function printEnded({ ended, dryRun }: CopyReport, only: CopyOnly | undefined): void {
  if (ended.length === 0) return
  const why = 'the key log says that their keys were shredded, and a shred is final'
  say(
    `${dryRun ? 'Would not bring back' : 'Not brought back'} ${countedOwners(ended)} of the source: ${why}:`,
  )
  printSome(ended.map(ownerName), ended.length)
  if (only !== undefined) say(SHREDDED_BY_MISTAKE)
}

/** @see docs/OPERATIONS.md, "A tenant's key is damaged" */
const SHREDDED_BY_MISTAKE =
  'If the shred was meant for a damaged row alone, so that the row could come back: take the lines of that shred out of the key log (they name the ' +
  'user id and the time), and run this again.'

/** What a dry run has found that a copy would refuse. */
function printRefusals({ refused, conflicts, conflictCount }: CopyReport): void {
  if (refused.length > 0) {
    say(
      'Refused without --apply-erasures: the source says that these users were shredded, and their keys are live at the target:',
    )
    printSome(refused.map(ownerName), refused.length)
  }
  if (conflictCount === 0) return
  say(
    `Refused: ${counted(conflictCount, 'row')} of the source ${conflictCount === 1 ? 'differs' : 'differ'} at the target:`,
  )
  printSome(conflicts.map(conflictLine), conflictCount)
  say(inThisRuntime(WHOSE_TOKENS))
}

function conflictLine({ userId, version, reason, from, to }: CopyConflict): string {
  const rows = [
    `    source: ${rowText(from)}`,
    `    target: ${to === null ? 'a tombstone under another version' : rowText(to)}`,
  ]
  return [`${ownerName(userId)}, version ${version}, ${reason}`, ...rows].join('\n')
}

function rowText({ kekId, createdAt, wrappedAt, shreddedAt }: ConflictingRow): string {
  const made = `made ${createdAt.toISOString()}`
  if (shreddedAt !== null) return `${made}, shredded ${shreddedAt.toISOString()}`
  const rewrapped = wrappedAt === null ? '' : `, rewrapped ${wrappedAt.toISOString()}`
  return `${made}, wrapped under ${kekName(kekId)}${rewrapped}`
}

const WHOSE_TOKENS =
  'Rows made at the same time hold the same key: rewrap both sides to the same master key, or copy into an empty store. Rows made at ' +
  'different times hold different keys, and each token of that user and version opens under one of them only. To find out which, decrypt ' +
  'it on either side: `npx keystore decrypt --user ID --store URL < token`, for a backup on a copy of the file. docs/OPERATIONS.md, "Keys ' +
  'were lost", says how to keep both. `npx keystore restore FILE --user ID` or `--tenant ID` brings back the rows of some alone.'

function printLostKeys({ count, keys }: LostKeys): void {
  say(
    `The target still lacks ${counted(count, 'key')} that the key log names. Tokens under them cannot be decrypted:`,
  )
  printSome(
    keys.map(
      ({ userId, version, createdAt, replaced }) =>
        `${ownerName(userId)}, version ${version}, made ${createdAt.toISOString()}${replaced ? ': another key stands in its place' : ''}`,
    ),
    count,
  )
}

const WRITTEN_MEANWHILE =
  'The source was written meanwhile. The target has every row that was there when this began; a further run copies the rest.'
