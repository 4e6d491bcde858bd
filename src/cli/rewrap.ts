/** `keystore rewrap`: rotation of the master key. */
import { Command } from 'commander'
import type { Format } from '../format/formats.js'
import type { RowFailure } from '../lifecycle/long-work.js'
import { type RewrapReport, rewrapAll } from '../lifecycle/rewrap.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { CensusRow } from '../store.js'
import { runLong } from './long-command.js'
import { printMasterKeys } from './master-key-table.js'
import { findMasterKeys, type MasterKeyOptions, withMasterKeys } from './master-keys.js'
import {
  type ChangeOptions,
  type StoreOptions,
  wholeNumber,
  withAcceptV2,
  withDryRun,
  withExistingStore,
  withFormat,
  withStore,
} from './options.js'
import {
  counted,
  exitWith,
  formatOf,
  kekName,
  plainTable,
  printJson,
  printSome,
  quoted,
  thousands,
} from './output.js'

interface RewrapCommandOptions extends StoreOptions, MasterKeyOptions, ChangeOptions {
  readonly format?: Format
  readonly acceptV2?: boolean
  readonly batchSize?: number
}

export function rewrapCommand(): Command {
  return withDryRun(withFormat(withAcceptV2(withMasterKeys(withStore(new Command('rewrap'))))))
    .description(
      'Wrap every key anew under the primary master key; what previous master keys wrapped is opened with them. Safe to repeat, to ' +
        'interrupt, and to run in several processes at once. Changes no token.',
    )
    .option('--batch-size <rows>', 'rows a transaction, 1 to 5,000 (default: 1,000)', wholeNumber)
    .addHelpText(
      'after',
      '\nExample:\n  keystore rewrap --master-key-file keys/new.key --previous-key-file keys/old.key --dry-run',
    )
    .action((options: RewrapCommandOptions) => {
      const masterKeys = findMasterKeys(options)
      return withExistingStore(options, (store) =>
        runLong(
          options,
          (long) => {
            const { format, batchSize, acceptV2, dryRun = false } = options
            return rewrapAll({
              ...long,
              store,
              masterKeys,
              batchSize,
              dryRun,
              ...(format === undefined ? {} : { format }),
              ...(acceptV2 ? { accept: ['v2'] } : {}),
            })
          },
          (report) => {
            if (options.json) printJson(report)
            else print(report, masterKeys)
            exitWith(report.failedCount === 0)
          },
        ),
      )
    })
}

function print(report: RewrapReport, keyring: MasterKeyring): void {
  const { dryRun, changed, skipped, kekId, failedCount } = report
  const what = `${dryRun ? 'Would rewrap' : 'Rewrapped'} ${counted(changed, 'key')} under ${kekId}`
  console.log(
    `${what}; ${thousands(skipped)} skipped (changed by others meanwhile), ${thousands(failedCount)} failed.`,
  )
  printFailures(report.failed, failedCount)
  const table = plainTable(['format', 'wrapped under', 'keys before', dryRun ? 'keys' : 'keys now'])
  for (const id of new Set([...report.before, ...report.after].map((row) => row.kekId)))
    table.push([
      formatOf(id),
      kekName(id),
      ...[report.before, report.after].map((rows) => thousands(live(rows, id))),
    ])
  if (table.length > 0) console.log(table.toString())
  printMasterKeys(report.masterKeys, keyring)
}

function live(rows: readonly CensusRow[], kekId: string | null): number {
  return rows.reduce((sum, row) => (row.kekId === kekId && !row.shredded ? sum + row.count : sum), 0)
}

/** Also of `rotate-user`. */
export function printFailures(failed: readonly RowFailure[], count: number): void {
  if (count === 0) return
  printSome(
    failed.map(
      ({ userId, version, code, reason }) => `${quoted(userId)}, version ${version}: ${reason} [${code}]`,
    ),
    count,
  )
  const codes = new Set(failed.map(({ code }) => code))
  if (codes.has('ERR_FORMAT_NOT_ACCEPTED')) console.log('  Rows in format v2 are upgraded with --accept-v2.')
  if (codes.has('ERR_UNKNOWN_MASTER_KEY'))
    console.log(
      '  Give the master keys that these rows name with --previous-key-file or API_KEY_MASTER_KEY_PREVIOUS.',
    )
}
