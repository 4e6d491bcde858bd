/** `keystore doctor`: checks a key store, and the encrypted columns of an application. */
import { Command } from 'commander'
import { invalidArgument, isKeystoreError, printable } from '../errors.js'
import { applyKeyLog, findUnfinishedErasures } from '../key-log/erasures.js'
import { findLostKeys, giveUpLostKeys, type LostKeys } from '../key-log/lost-keys.js'
import { liveCount } from '../lifecycle/census.js'
import { maintenanceOf } from '../lifecycle/long-work.js'
import { type Finding, type VerifyReport, verifyAll } from '../lifecycle/verify.js'
import { formatOfKekId } from '../master-keys/kek-id.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { ColumnFinding } from '../sources/sample.js'
import type { CensusRow, ErasureState, KeyStore } from '../store.js'
import { tenantIdOf } from '../table.js'
import { type ColumnCoverage, type ColumnReport, checkColumns } from './column-findings.js'
import { inThisRuntime } from './command-line.js'
import { assertCanAsk, type ConfirmOptions, isTyped } from './confirm.js'
import { assertStoreExists, storeName, withoutLibraryAdvice } from './existing-store.js'
import { type LongWorkControls, runLongCommand } from './long-command.js'
import { printMasterKeys } from './master-key-table.js'
import { findMasterKeys, type MasterKeyOptions, withMasterKeys } from './master-keys.js'
import { openStore } from './open-store.js'
import {
  type AcceptOptions,
  acceptedBesides,
  closeAfter,
  type KeyLogOptions,
  type ReportOptions,
  type StoreOptions,
  withAcceptV2,
  withJson,
  withKeyLog,
  withStore,
} from './options.js'
import {
  counted,
  countedOwners,
  erasedFrom,
  ownerName,
  printJson,
  printSome,
  setExitCode,
  thousands,
} from './output.js'
import { printableSentence } from './printable.js'
import { makeKeyLog, printRecording, type RecordingReport, recordOrCount } from './record-keys.js'
import { printProblems, reasonOf } from './row-problems.js'
import { say } from './say.js'
import { assertSchemaFile, type SchemaOptions, withSchema } from './schema-file.js'
import {
  coreFindings,
  fileFindings,
  forgottenTenants,
  LOST_KEY,
  lostKeyFinding,
  poolFindings,
  uncheckedFindings,
  unfinishedFinding,
} from './store-findings.js'
import { tenantSummary } from './tenant-summary.js'

interface DoctorCommandOptions
  extends StoreOptions,
    MasterKeyOptions,
    AcceptOptions,
    ReportOptions,
    ConfirmOptions,
    KeyLogOptions,
    SchemaOptions {
  readonly finishErasure?: boolean
  readonly giveUpLostKeys?: boolean
  readonly recordKeys?: boolean
}

interface DoctorReport extends VerifyReport, RecordingReport {
  /** Users who were erased again because the key log names them. */
  readonly erasedAgain?: readonly string[]
  /** How many lost keys were given up. */
  readonly givenUp?: number
  readonly erasure?: Required<ErasureState>
  /** With --schema: how many rows of each registered column were looked at. */
  readonly columns?: readonly ColumnCoverage[]
  /** A line for people. Null if there are none; `census` counts them too. */
  readonly tenants: string | null
}

export function doctorCommand(): Command {
  const command = withKeyLog(
    withJson(withAcceptV2(withMasterKeys(withStore(new Command('doctor'))))),
    'a key log: first erase again its shredded users whose keys a backup brought back, then name the keys that the store lacks',
  )
  return withSchema(
    command,
    'also look for plaintext and for unregistered columns, in the first 1,000 and the last 200 rows of each table; without --db in the database of the store',
  )
    .description(
      'Unwrap every key and check the store itself; name each thing that is wrong and what to do. Exit code 1 if any is an error. ' +
        'Changes no row, except with --key-log or --finish-erasure.',
    )
    .option(
      '--finish-erasure',
      'at the end, take the step that shred receipts call pending; on Postgres it locks the table for seconds',
    )
    .option(
      '--give-up-lost-keys',
      'record in the key log that the keys it names and the store lacks are given up, so that applications open again; asks you to confirm it',
    )
    .option(
      '--record-keys',
      'record in the key log the keys and the erasures that the store has and the log lacks: once, when an application gets a key log',
    )
    .option('--yes', 'do not ask')
    .addHelpText(
      'after',
      '\nExamples:\n  npx keystore doctor\n  npx keystore doctor --key-log keys.jsonl --schema dist/registry.js --db app.db',
    )
    .action(async (options: DoctorCommandOptions) => {
      if (options.recordKeys && options.keyLog === undefined)
        throw invalidArgument('--record-keys needs --key-log')
      if (options.giveUpLostKeys) {
        if (options.keyLog === undefined) throw invalidArgument('--give-up-lost-keys needs --key-log')
        assertCanAsk(options, 'give up keys')
      }
      assertSchemaFile({ ...options, db: options.db ?? options.store })
      assertStoreExists(options.store)
      const masterKeys = findMasterKeys(options)
      // An old schema is a finding: doctor does not migrate it.
      await closeAfter(await openStore(options.store, { migrate: 'off' }), (store) =>
        runLongCommand(
          options,
          (controls) => runChecks(store, masterKeys, options, controls),
          (report) => {
            const { tenants, ...rest } = report
            if (options.json) printJson(rest)
            else printDoctorReport(report, options, masterKeys)
            setExitCode(report.ok && report.erasure?.erased !== 'pending')
          },
        ),
      )
    })
}

async function runChecks(
  store: KeyStore,
  masterKeys: MasterKeyring,
  options: DoctorCommandOptions,
  controls: LongWorkControls,
): Promise<DoctorReport> {
  const { finishErasure, keyLog } = options
  const maintenance = maintenanceOf(store)
  // A table of an unknown schema cannot be written. verifyAll reports it.
  const isUsable = (await maintenance.inspect()).every(({ kind }) => kind !== 'schemaVersion')
  if (isUsable) await makeKeyLog(options)
  const erasedAgain = isUsable && keyLog !== undefined ? await applyKeyLog({ store, keyLog }) : undefined
  // First: a wrong schema need not wait for all keys.
  const columns = await columnReport(store, masterKeys, options)
  const keys = await verifyAll({
    ...controls,
    store,
    masterKeys,
    accept: ['v3', ...acceptedBesides(options)],
  })
  const found = [
    ...uncheckedFindings(keys, masterKeys),
    ...fileFindings(options),
    ...coreFindings(),
    ...(columns?.findings ?? []),
  ]
  const lost = isUsable && keyLog !== undefined ? await findLostKeys({ store, keyLog }) : NOTHING_LOST
  const givenUp = lost.count > 0 ? await giveUp(store, lost, options) : undefined
  // Of a store that lacks keys nothing is recorded: it may be another one.
  const isWhole = isUsable && (lost.count === 0 || givenUp !== undefined)
  const recording = isWhole ? await recordOrCount(store, options, controls) : {}
  if (isUsable) found.push(...(await poolFindings(store)))
  if (givenUp === undefined) found.push(...lost.keys.map(lostKeyFinding))
  if (isUsable && keyLog !== undefined) {
    found.push(...(await findUnfinishedErasures(store, keyLog)).map(unfinishedFinding))
    found.push(...(await forgottenTenants(keys.findings, keyLog)))
  }
  const unlisted = givenUp === undefined ? lost.count - lost.keys.length : 0
  const report = addFindings(keys, found, unlisted)
  const finished = finishErasure && report.complete ? await maintenance.finishErasure() : undefined
  const erasure =
    finished?.erased === 'pending'
      ? { ...finished, pending: withoutLibraryAdvice(finished.pending ?? 'unknown') }
      : finished
  return {
    ...report,
    ...recording,
    ...(columns === null ? {} : { columns: columns.columns }),
    tenants: isUsable ? await tenantSummary(store, report.census) : null,
    complete: report.complete && recording.recorded?.complete !== false,
    ...(erasedAgain === undefined ? {} : { erasedAgain }),
    ...(givenUp === undefined ? {} : { givenUp }),
    ...(erasure === undefined ? {} : { erasure }),
  }
}

/** @returns null without --schema. If no other database is named, the columns are looked for in that of the store */
async function columnReport(
  store: KeyStore,
  masterKeys: MasterKeyring,
  options: DoctorCommandOptions,
): Promise<ColumnReport | null> {
  const { schema, db } = options
  if (schema === undefined) return null
  try {
    return await checkColumns(store, masterKeys, schema, { ...options, db: db ?? options.store })
  } catch (error) {
    if (db !== undefined || !isKeystoreError(error) || error.code !== 'ERR_INVALID_ARGUMENT') throw error
    throw invalidArgument(`${error.message}. ${ANOTHER_DATABASE}`)
  }
}

const ANOTHER_DATABASE =
  'The database of the store was looked at, since no other one is named: that of the application is --db URL, or $DATABASE_URL'

const NOTHING_LOST: LostKeys = { count: 0, keys: [] }

/** Has it confirmed that lost keys are given up. @returns how many were; undefined if nobody asked for it */
async function giveUp(
  store: KeyStore,
  { count }: LostKeys,
  { giveUpLostKeys: isAsked, keyLog, yes }: DoctorCommandOptions,
): Promise<number | undefined> {
  if (!isAsked || keyLog === undefined) return undefined
  const expected = `give up ${counted(count, 'key')}`
  const question = `The store lacks ${counted(count, 'key')} of the key log. To give them up for good type "${expected}": `
  if (!yes && !(await isTyped(question, expected)))
    throw new Error(`What was typed is not "${expected}": nothing was given up`)
  return giveUpLostKeys({ store, keyLog })
}

/** @param unlisted how many lost keys there are beside those that are listed */
function addFindings(
  report: VerifyReport,
  more: readonly (Finding | ColumnFinding)[],
  unlisted: number,
): VerifyReport {
  const counts = { ...report.counts }
  if (unlisted > 0) counts[LOST_KEY] = unlisted
  for (const { kind } of more) counts[kind] = (counts[kind] ?? 0) + 1
  return {
    ...report,
    ok: report.ok && more.every(({ severity }) => severity !== 'error'),
    findings: [...report.findings, ...more],
    counts,
  }
}

function printDoctorReport(
  report: DoctorReport,
  options: DoctorCommandOptions,
  keyring: MasterKeyring,
): void {
  const { erasedAgain, erasure, findings, counts } = report
  if (erasedAgain !== undefined) say(`The key log erased ${countedOwners(erasedAgain)} again.`)
  else if (options.keyLog !== undefined) say('The key log was not applied: see schemaVersion.')
  printSome((erasedAgain ?? []).map(ownerName), erasedAgain?.length ?? 0)
  if (report.givenUp !== undefined)
    say(
      `Recorded that ${counted(report.givenUp, 'lost key')} ${report.givenUp === 1 ? 'is' : 'are'} given up.`,
    )
  printRecording(report, options)

  const totals = { error: 0, warning: 0, note: 0 }
  for (const [kind, count] of Object.entries(counts)) {
    const ofKind = findings.filter((finding) => finding.kind === kind)
    const severities = new Set(ofKind.map(({ severity }) => severity))
    // Findings that are not listed are most likely like the first.
    let unlisted = count - ofKind.length
    for (const severity of severities.size === 0 ? (['error'] as const) : severities) {
      const some = ofKind.filter((finding) => finding.severity === severity)
      const all = some.length + unlisted
      unlisted = 0
      totals[severity] += all
      say(`${severity}: ${kind} (${thousands(all)})`)
      printProblems(some, all, reasonOf, (group) => rowsUnder(group, report.census))
    }
  }
  if (
    !options.acceptV2 &&
    report.census.some(({ kekId, shredded }) => !shredded && formatOfKekId(kekId) === 'v2')
  )
    say(inThisRuntime(V2_IS_AN_ERROR))
  for (const line of tenantAdvice(findings)) say(inThisRuntime(line))
  for (const { table, column, rowsLookedAt, rows } of report.columns ?? [])
    say(
      `${printable(table)}.${printable(column)}: ${thousands(rowsLookedAt)} of ${counted(rows, 'row')} looked at.`,
    )
  if (report.masterKeys.length > 0) printMasterKeys(report.masterKeys, keyring)
  if (erasure?.erased === 'file')
    say(`The erasure is finished: erased keys are ${erasedFrom(options.store)}.`)
  else if (erasure !== undefined)
    say(`The erasure is not finished: ${printableSentence(erasure.pending ?? 'unknown')}`)
  if (report.tenants !== null) say(`${report.tenants}.`)
  const wrong = `${counted(totals.error, 'error')}, ${counted(totals.warning, 'warning')}`
  say(
    `${storeName(options.store)}: ${counted(report.rows, 'row')} looked at: ${totals.error + totals.warning === 0 ? 'nothing is wrong' : wrong}.`,
  )
}

/** What to do about tenants whose keys cannot be used: that concerns all of their users, who are not listed. */
function tenantAdvice(findings: readonly Finding[]): string[] {
  const kinds = new Set(
    findings.filter(({ userId = '' }) => tenantIdOf(userId) !== null).map(({ kind }) => kind),
  )
  return Object.entries(TENANT_ADVICE).flatMap(([kind, advice]) => (kinds.has(kind) ? advice : []))
}

const TENANT_ADVICE: Readonly<Record<string, string>> = {
  undecryptable:
    'A tenant whose key does not open cannot be used, and none of its users: bring its row back from a backup. docs/OPERATIONS.md, "Tenants", ' +
    'says how.',
  unknownMasterKey:
    'To check a tenant, give the root that wraps its key: --previous-key-file FILE, or API_KEY_MASTER_KEY_PREVIOUS. rewrap leaves it there.',
  tenantNotChecked:
    'To check a tenant, give the root that wraps its key: --previous-key-file FILE, or API_KEY_MASTER_KEY_PREVIOUS (rewrap leaves it ' +
    "there). If that is for the customer alone to do, run verifyAll with the application's tenantRoot.",
  tenantMissing:
    'Users under a missing key of a tenant open again when its row is back: npx keystore restore BACKUP --tenant ID. If the tenant was forgotten on purpose, ' +
    'remove its users: npx keystore shred-tenant ID --forget --with-users --allow-unknown',
  tenantMixed:
    "Versions of a tenant's key are under different roots, and one of them may be planted: find out which one nobody made (key log, backups), and delete none before. " +
    'rotateTenantKey and rewrapAll of the application bring all users under a new one. docs/OPERATIONS.md, "Tenants", says how.',
  tenantShredded:
    'The rows of users of a shredded tenant are of no more use to anybody: npx keystore shred-tenant ID --with-users removes them. Who shall get ' +
    'a new key has to be forgotten so, or alone: npx keystore shred-user ID --forget',
}

const V2_IS_AN_ERROR =
  'Keys in format v2 are errors here, because an application that does not accept v2 cannot read them. If the store was taken over from an ' +
  'earlier implementation, `npx keystore rewrap --accept-v2` upgrades them, and with --accept-v2 doctor reports them as warnings. If it was not, ' +
  'somebody has put them there.'

/** The live rows under the master key that findings say nobody gave; 0 if they say something else. */
function rowsUnder([first]: readonly Finding[], census: readonly CensusRow[]): number {
  if (first?.kind !== 'unknownMasterKey' || first.kekId === undefined) return 0
  return liveCount(census, ({ kekId, ofTenants }) => kekId === first.kekId && !ofTenants)
}
