/** `keystore rewrap`: the rotation of the master key. */
import { Command } from 'commander'
import type { Format } from '../format/formats.js'
import { liveCount, RETIREMENT_WARNINGS } from '../lifecycle/census.js'
import { type RewrapReport, rewrapAll } from '../lifecycle/rewrap.js'
import { formatOfKekId } from '../master-keys/kek-id.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { CensusRow } from '../store.js'
import { inThisRuntime } from './command-line.js'
import { withExistingStore } from './existing-store.js'
import { runLongCommand } from './long-command.js'
import { printMasterKeys } from './master-key-table.js'
import { findMasterKeys, type MasterKeyOptions, withMasterKeys } from './master-keys.js'
import {
  type AcceptOptions,
  acceptedBesides,
  type ChangeOptions,
  type StoreOptions,
  wholeNumber,
  withAcceptV2,
  withDryRun,
  withFormat,
  withStore,
} from './options.js'
import { counted, countedKekName, kekName, printJson, printSome, setExitCode, thousands } from './output.js'
import { printFailures } from './row-problems.js'
import { say } from './say.js'
import { printTable } from './tables.js'

interface RewrapCommandOptions extends StoreOptions, MasterKeyOptions, AcceptOptions, ChangeOptions {
  readonly format?: Format
  readonly batchSize?: number
  readonly tenants?: boolean
}

export function rewrapCommand(): Command {
  return withDryRun(withFormat(withAcceptV2(withMasterKeys(withStore(new Command('rewrap'))))))
    .description(
      'Rewrap every key under the primary master key. Keys that previous master keys wrapped are unwrapped with those. Users of tenants come ' +
        'under the newest key of their tenant, whose root stays, unless --tenants. Safe to repeat, to interrupt, and to run in several ' +
        'processes at once. Changes no token.',
    )
    .option(
      '--tenants',
      "also move the keys of tenants that are under previous master keys; without it they stay, since a previous key may be a customer's own",
    )
    .option('--batch-size <rows>', 'rows a transaction, 1 to 5,000 (default: 1,000)', wholeNumber)
    .addHelpText(
      'after',
      '\nExample:\n  npx keystore rewrap --master-key-file keys/new.key \\\n    --previous-key-file keys/old.key --dry-run',
    )
    .action((options: RewrapCommandOptions) => {
      const masterKeys = findMasterKeys(options)
      return withExistingStore(options, (store) =>
        runLongCommand(
          options,
          (controls) => {
            const { format, batchSize, dryRun = false, tenants: moveTenants = false } = options
            return rewrapAll({
              ...controls,
              store,
              masterKeys,
              batchSize,
              dryRun,
              moveTenants,
              accept: acceptedBesides(options),
              ...(format === undefined ? {} : { format }),
            })
          },
          (report) => {
            if (options.json) printJson(report)
            else printRewrap(report, masterKeys)
            const unmoved = tenantsOfOtherRoots(report, masterKeys)
            const isNamed = options.tenants === true && unmoved.count > 0
            if (isNamed && !options.json) say(inThisRuntime(unmovedText(unmoved.count)))
            // Some may be customers' own. If none at all could be moved, it is rather the previous key that is missing.
            setExitCode(report.failedCount === 0 && !(isNamed && unmoved.all))
          },
        ),
      )
    })
}

/** Keys of tenants that were to be moved, and are under master keys that were not given; and whether all are. */
function tenantsOfOtherRoots(
  { after }: RewrapReport,
  keyring: MasterKeyring,
): { count: number; all: boolean } {
  const isKnown = ({ kekId }: CensusRow) => kekId === null || keyring.find(kekId) !== null
  const of = (known: boolean) => liveCount(after, (row) => row.ofTenants === true && isKnown(row) === known)
  return { count: of(false), all: of(true) === 0 }
}

function unmovedText(count: number): string {
  const are = count === 1 ? 'is' : 'are'
  return (
    `${counted(count, 'key')} of tenants ${are} under master keys that were not given, and stayed there: give these with --previous-key-file or ` +
    "API_KEY_MASTER_KEY_PREVIOUS. If they are customers' own, leave --tenants away; npx keystore tenants lists them."
  )
}

function printRewrap(report: RewrapReport, keyring: MasterKeyring): void {
  const { dryRun, changed, skipped, kekId, failedCount } = report
  const what = `${dryRun ? 'Would rewrap' : 'Rewrapped'} ${counted(changed, 'key')} under ${kekName(kekId)}`
  say(
    `${what}; ${thousands(skipped)} skipped (changed by others meanwhile), ${thousands(failedCount)} failed.`,
  )
  const { tenantsMoved } = report
  printSome(
    tenantsMoved.map(
      ({ fromKekId, count }) =>
        `${dryRun ? 'Would move' : 'Moved'} ${counted(count, 'key')} of tenants from ${kekName(fromKekId)} to ${kekName(kekId)}`,
    ),
    tenantsMoved.length,
  )
  printFailures(report.failed, failedCount)
  const table: string[][] = []
  const live = [...report.before, ...report.after].filter(({ shredded }) => !shredded)
  // Tenants' own keys have a line beside the users' under the same master key.
  const lines = new Map(live.map((row) => [countedKekName(row), row]))
  for (const [name, { kekId, ofTenants }] of lines) {
    const isCounted = (row: CensusRow) => row.kekId === kekId && row.ofTenants === ofTenants
    table.push([
      formatOfKekId(kekId),
      name,
      ...[report.before, report.after].map((rows) => thousands(liveCount(rows, isCounted))),
    ])
  }
  const head = ['format', 'wrapped under', 'keys before', dryRun ? 'keys' : 'keys now']
  if (table.length > 0) printTable(head, table)
  for (const warning of report.warnings)
    if (!RETIREMENT_WARNINGS.includes(warning)) say(inThisRuntime(`Warning: ${warning}.`))
  printMasterKeys(report.masterKeys, keyring)
}
