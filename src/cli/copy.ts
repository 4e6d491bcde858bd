/** `keystore copy`, `backup` and `restore`: one operation between two stores. None needs a master key. */
import { Command } from 'commander'
import { type OpenedKeyStore, openKeyStore } from '../adapters/open.js'
import { invalidArgument, isKeystoreError, type KeystoreError, StoreError } from '../errors.js'
import { type CopyReport, copyKeys } from '../lifecycle/copy.js'
import type { CensusRow, KeyStore } from '../store.js'
import { openBackup, startBackup } from './backup-file.js'
import { runLong } from './long-command.js'
import {
  type ChangeOptions,
  closing,
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
import { counted, exitWith, plainTable, printJson, printSome, quoted, thousands } from './output.js'

interface CopyCommandOptions extends ChangeOptions {
  readonly shredLog?: string
}

const SHRED_LOG = 'whoever this log of shred-user names arrives erased'

export function copyCommand(): Command {
  return withShredLog(withDryRun(new Command('copy')), SHRED_LOG)
    .description(
      'Copy every key, exactly, into another store: the switch to production, in either direction. Safe to repeat: a further run picks ' +
        'up what came meanwhile. A row that the target has otherwise is named, and nothing is written.',
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
      closing(await openBackup(file), (backup) => copyInto(store, backup.store, options)),
    )
}

export function backupCommand(): Command {
  return withJson(withStore(new Command('backup')))
    .description(
      'Copy the store into a new SQLite file (mode 0600). Until it is whole it is called FILE.partial, which a further run goes on with. ' +
        'The master key is not in it.',
    )
    .argument('<file>', 'the file to make; one that is there is never overwritten')
    .addHelpText('after', '\nExample:\n  keystore backup "backups/$(date +%F).db"')
    .action((file: string, options: StoreOptions & ReportOptions) =>
      withExistingStore(options, async (source) =>
        closing(await startBackup(file), (backup) =>
          runLong(
            options,
            async (long) => {
              const report = await copyKeys({ ...long, from: source, to: backup.store }).catch((error) => {
                throw isKeystoreError(error) ? aboutPartial(error, backup.partial) : error
              })
              // Every row that was there when it began, read back and compared. What the store got meanwhile is for the next backup.
              const finished = report.complete && report.extra === 0
              if (finished) await backup.finish()
              return { ...report, finished }
            },
            (report) => {
              if (options.json) printJson(report)
              else {
                print(report)
                console.log(report.finished ? `The backup is ${file}.` : unfinished(report, backup.partial))
              }
              exitWith(report.finished)
            },
          ),
        ),
      ),
    )
}

/** A row that was rewrapped, or forgotten and minted anew, since an interrupted run copied it. */
function aboutPartial(error: KeystoreError, partial: string): KeystoreError {
  const { ref } = error as StoreError
  if (ref === undefined) return error
  return new StoreError(`${error.message}. If the store is right, remove ${partial} and run this again`, {
    ref,
  })
}

function unfinished({ complete }: CopyReport, partial: string): string {
  if (complete) return `${partial} holds rows that the store no longer has: remove it, and run this again.`
  return `The backup is not whole yet: run this again, and it goes on with ${partial}.`
}

/** A target that is new is made, but not by a dry run. */
async function copyInto(url: string, from: KeyStore, options: CopyCommandOptions): Promise<void> {
  const { dryRun = false, json, shredLog } = options
  const target: OpenedKeyStore = await openKeyStore(url, { migrate: dryRun ? 'check' : 'auto' })
  await closing(target, (to) =>
    runLong(
      options,
      (long) => copyKeys({ ...long, from, to, dryRun, ...(shredLog === undefined ? {} : { shredLog }) }),
      (report) => {
        if (json) printJson(report)
        else print(report)
        // Rows that only the target has are its own; anything else is missing or has changed meanwhile.
        exitWith(dryRun || report.equal || report.extra > 0)
      },
    ),
  )
}

function print({ dryRun, copied, shredded, extra, census, digest, equal, complete }: CopyReport): void {
  console.log(`${dryRun ? 'Would copy' : 'Copied'} ${counted(copied, 'row')}.`)
  if (shredded.length > 0) {
    console.log(`${dryRun ? 'Would erase' : 'Erased'} at the target, as the source or the shred log says:`)
    printSome(shredded.map(quoted), shredded.length)
  }
  const table = plainTable(['', 'rows', 'SHA-256 of all records'])
  for (const side of ['from', 'to'] as const)
    table.push([
      side === 'from' ? 'source' : 'target',
      thousands(total(census[side])),
      digest[side] ?? 'not compared',
    ])
  console.log(table.toString())
  if (extra > 0)
    console.log(`The target has ${counted(extra, 'row')} that the source has not; they are left alone.`)
  if (equal) console.log('Both hold the same records.')
  else if (complete && !dryRun && extra === 0) console.log(WRITTEN_MEANWHILE)
}

const WRITTEN_MEANWHILE =
  'The source was written meanwhile. The target has every row that was there when this began; a further run picks up the rest.'

function total(rows: readonly CensusRow[]): number {
  return rows.reduce((sum, { count }) => sum + count, 0)
}
