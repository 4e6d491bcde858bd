/** `keystore copy`, `backup` and `restore`: each copies one store into another. None needs a master key. */
import { Command } from 'commander'
import { type OpenedKeyStore, openKeyStore } from '../adapters/open.js'
import { invalidArgument, isKeystoreError, type KeystoreError, StoreError } from '../errors.js'
import { totalCount } from '../lifecycle/census.js'
import { type CopyReport, copyKeys } from '../lifecycle/copy.js'
import type { KeyStore } from '../store.js'
import { openBackup, startBackup } from './backup-file.js'
import { runLongCommand } from './long-command.js'
import {
  type ChangeOptions,
  closeAfter,
  DEFAULT_STORE,
  type ReportOptions,
  type StoreOptions,
  storeOption,
  withDryRun,
  withExistingStore,
  withJson,
  withShredLog,
  withStore,
} from './options.js'
import { counted, plainTable, printableId, printJson, printSome, setExitCode, thousands } from './output.js'
import { printableSentence } from './printable.js'

interface CopyCommandOptions extends ChangeOptions {
  readonly shredLog?: string
}

const SHRED_LOG = 'a log of shred-user: the users in it are copied as erased'

export function copyCommand(): Command {
  return withShredLog(withDryRun(new Command('copy')), SHRED_LOG)
    .description(
      'Copy every key exactly into another store, such as from SQLite to Postgres or back. Safe to repeat: a further run copies what was ' +
        'added meanwhile. If the target has another key for the same user and version, the row is named and nothing is written.',
    )
    .addOption(storeOption('from', 'KEYSTORE_URL', 'the source: ').default(DEFAULT_STORE))
    .addOption(storeOption('to', 'KEYSTORE_TO_URL', 'the target: ').makeOptionMandatory())
    .addHelpText('after', '\nExample:\n  KEYSTORE_TO_URL=postgres://… keystore copy --from data/keystore.db')
    .action(
      ({ from, to, ...options }: CopyCommandOptions & { readonly from: string; readonly to: string }) => {
        if (from === to) throw invalidArgument('--from and --to name the same store')
        return withExistingStore({ store: from }, (source) => copyInto(to, source, options))
      },
    )
}

export function restoreCommand(): Command {
  return withShredLog(withDryRun(withStore(new Command('restore'))), SHRED_LOG)
    .description('Copy a backup, or any SQLite key store, into the store. The file is only read.')
    .argument('<file>', 'a file that `keystore backup` made')
    .addHelpText(
      'after',
      '\nExample:\n  keystore restore backups/monday.db --store drill.db --shred-log shredded.jsonl',
    )
    .action(async (file: string, { store, ...options }: StoreOptions & CopyCommandOptions) =>
      closeAfter(await openBackup(file), (backup) => copyInto(store, backup.store, options)),
    )
}

export function backupCommand(): Command {
  return withJson(withStore(new Command('backup')))
    .description(
      'Copy the store into a new SQLite file (mode 0600). Until it is complete it is called FILE.partial, and a further run continues it. ' +
        'The backup does not hold the master key.',
    )
    .argument('<file>', 'the file to make; an existing file is never overwritten')
    .addHelpText('after', '\nExample:\n  keystore backup "backups/$(date +%F).db"')
    .action((file: string, options: StoreOptions & ReportOptions) =>
      withExistingStore(options, async (source) =>
        closeAfter(await startBackup(file), (backup) =>
          runLongCommand(
            options,
            async (controls) => {
              const report = await copyKeys({ ...controls, from: source, to: backup.store }).catch(
                (error) => {
                  throw isKeystoreError(error) ? conflictInPartial(error, backup.partial) : error
                },
              )
              // The backup has every row that the store had when it began. Rows added meanwhile are for the next backup.
              const finished = report.complete && report.extra === 0
              if (finished) await backup.finish()
              return { ...report, finished }
            },
            (report) => {
              if (options.json) printJson(report)
              else {
                printCopyReport(report)
                console.log(
                  report.finished
                    ? `The backup is ${printableSentence(file)}.`
                    : printableSentence(unfinishedAdvice(report, backup.partial)),
                )
              }
              setExitCode(report.finished)
            },
          ),
        ),
      ),
    )
}

/** Says what to do if a row has changed since an interrupted run copied it: it was rewrapped, or forgotten and minted anew. */
function conflictInPartial(error: KeystoreError, partial: string): KeystoreError {
  const { ref } = error as StoreError
  if (ref === undefined) return error
  return new StoreError(`${error.message}. If the store is right, remove ${partial} and run this again`, {
    ref,
  })
}

function unfinishedAdvice({ complete }: CopyReport, partial: string): string {
  if (complete) return `${partial} holds rows that the store no longer has: remove it, and run this again.`
  return `The backup is not complete yet: run this again to continue ${partial}.`
}

/** Creates or migrates the target first, unless it is a dry run. */
async function copyInto(url: string, from: KeyStore, options: CopyCommandOptions): Promise<void> {
  const { dryRun = false, json, shredLog } = options
  const target: OpenedKeyStore = await openKeyStore(url, { migrate: dryRun ? 'check' : 'auto' })
  await closeAfter(target, (to) =>
    runLongCommand(
      options,
      (controls) =>
        copyKeys({ ...controls, from, to, dryRun, ...(shredLog === undefined ? {} : { shredLog }) }),
      (report) => {
        if (json) printJson(report)
        else printCopyReport(report)
        // Extra rows at the target are no failure. Without any, unequal stores mean that rows are missing or have changed meanwhile.
        setExitCode(dryRun || report.equal || report.extra > 0)
      },
    ),
  )
}

function printCopyReport({
  dryRun,
  copied,
  shredded,
  extra,
  census,
  digest,
  equal,
  complete,
}: CopyReport): void {
  console.log(`${dryRun ? 'Would copy' : 'Copied'} ${counted(copied, 'row')}.`)
  if (shredded.length > 0) {
    console.log(
      `${dryRun ? 'Would erase' : 'Erased'} at the target, because the source or the shred log says so:`,
    )
    printSome(shredded.map(printableId), shredded.length)
  }
  const table = plainTable(['', 'rows', 'SHA-256 of all records'])
  for (const side of ['from', 'to'] as const)
    table.push([
      side === 'from' ? 'source' : 'target',
      thousands(totalCount(census[side])),
      digest[side] ?? 'not compared',
    ])
  console.log(table.toString())
  if (extra > 0)
    console.log(`The target has ${counted(extra, 'row')} that the source has not. They stay as they are.`)
  if (equal) console.log('Both hold the same records.')
  else if (complete && !dryRun && extra === 0) console.log(WRITTEN_MEANWHILE)
}

const WRITTEN_MEANWHILE =
  'The source was written meanwhile. The target has every row that was there when this began; a further run copies the rest.'
