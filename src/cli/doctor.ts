/** `keystore doctor`: checks a key store, and the encrypted columns of an application. */
import { Command } from 'commander'
import { describeUser, invalidArgument, isKeystoreError, printable } from '../errors.js'
import { applyKeyLog, findUnfinishedErasures } from '../key-log/erasures.js'
import { findLostKeys, giveUpLostKeys, type LostKeys } from '../key-log/lost-keys.js'
import { liveCount } from '../lifecycle/census.js'
import { maintenanceOf } from '../lifecycle/long-work.js'
import { type Finding, type VerifyReport, verifyAll } from '../lifecycle/verify.js'
import { formatOfKekId } from '../master-keys/kek-id.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import { type ColumnFinding, sampleColumns } from '../sources/sample.js'
import type { CensusRow, ErasureState, KeyStore } from '../store.js'
import { tenantIdOf } from '../table.js'
import { inThisRuntime } from './command-line.js'
import { assertCanAsk, type ConfirmOptions, isTyped } from './confirm.js'
import { assertStoreExists, storeName, withoutLibraryAdvice } from './existing-store.js'
import { fingerprintFindings } from './fingerprint-findings.js'
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
import { counted, countedOwners, erasedFrom, ownerName, printJson, printSome, setExitCode } from './output.js'
import { printableSentence } from './printable.js'
import { makeKeyLog, printRecording, type RecordingReport, recordOrCount } from './record-keys.js'
import {
  assertSchemaFile,
  type SchemaOptions,
  schemaTables,
  type UnregisteredTable,
  withHost,
  withSchema,
} from './schema-file.js'
import {
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
    'also look for plaintext and for unregistered columns, in some rows of each table',
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
      '\nExamples:\n  npx keystore doctor\n  npx keystore doctor --key-log keys.jsonl --schema src/schema.ts --db app.db',
    )
    .action(async (options: DoctorCommandOptions) => {
      if (options.recordKeys && options.keyLog === undefined)
        throw invalidArgument('--record-keys needs --key-log')
      if (options.giveUpLostKeys) {
        if (options.keyLog === undefined) throw invalidArgument('--give-up-lost-keys needs --key-log')
        assertCanAsk(options, 'give up keys')
      }
      assertSchemaFile(options)
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
  const keys = await verifyAll({
    ...controls,
    store,
    masterKeys,
    accept: ['v3', ...acceptedBesides(options)],
  })
  const found = [
    ...uncheckedFindings(keys, masterKeys),
    ...fileFindings(options),
    ...(await columnFindings(store, masterKeys, options)),
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
    tenants: isUsable ? await tenantSummary(store, report.census) : null,
    complete: report.complete && recording.recorded?.complete !== false,
    ...(erasedAgain === undefined ? {} : { erasedAgain }),
    ...(givenUp === undefined ? {} : { givenUp }),
    ...(erasure === undefined ? {} : { erasure }),
  }
}

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

/** @throws ERR_INVALID_ARGUMENT if the schema is not that of the database */
async function columnFindings(
  store: KeyStore,
  masterKeys: MasterKeyring,
  options: DoctorCommandOptions,
): Promise<ColumnFinding[]> {
  const { schema } = options
  if (schema === undefined) return []
  return withHost(options, async (host) => {
    const findings: ColumnFinding[] = []
    const { registered, unregistered } = await schemaTables(schema, options, host)
    for (const { name, plan, withColumns } of registered) {
      const { columns, fingerprints } = plan.shape
      const fields = new Map(
        plan.columns.flatMap(({ column, fields }) => (fields ? [[column, fields] as const] : [])),
      )
      findings.push(...(await sampleColumns(name, withColumns, columns, fingerprints, fields)))
    }
    findings.push(...(await fingerprintFindings(store, masterKeys, options, registered)))
    for (const table of unregistered) findings.push(...(await checkUnregistered(table)))
    return findings
  })
}

async function checkUnregistered({
  name,
  encrypted,
  withColumns,
}: UnregisteredTable): Promise<ColumnFinding[]> {
  const unregistered = encrypted.map((column) => ({
    severity: 'warning' as const,
    kind: 'unregistered' as const,
    reason: `${printable(name)}, column ${printable(column)}: it is an encrypted column, and no defineEncrypted names its table`,
  }))
  if (withColumns === null) return unregistered
  try {
    return [...unregistered, ...(await sampleColumns(name, withColumns, [], encrypted))]
  } catch (error) {
    // The schema may have tables and columns that this database does not have, or not yet.
    if (isKeystoreError(error) && error.code === 'ERR_INVALID_ARGUMENT') return unregistered
    throw error
  }
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
  if (erasedAgain !== undefined) console.log(`The key log erased ${countedOwners(erasedAgain)} again.`)
  else if (options.keyLog !== undefined) console.log('The key log was not applied: see schemaVersion.')
  printSome((erasedAgain ?? []).map(ownerName), erasedAgain?.length ?? 0)
  if (report.givenUp !== undefined)
    console.log(
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
      console.log(`${severity}: ${kind} (${all})`)
      printFindings(some, all, report.census)
    }
  }
  if (
    !options.acceptV2 &&
    report.census.some(({ kekId, shredded }) => !shredded && formatOfKekId(kekId) === 'v2')
  )
    console.log(inThisRuntime(V2_IS_AN_ERROR))
  for (const line of tenantAdvice(findings)) console.log(inThisRuntime(line))
  if (report.masterKeys.length > 0) printMasterKeys(report.masterKeys, keyring)
  if (erasure?.erased === 'file')
    console.log(`The erasure is finished: erased keys are ${erasedFrom(options.store)}.`)
  else if (erasure !== undefined)
    console.log(`The erasure is not finished: ${printableSentence(erasure.pending ?? 'unknown')}`)
  if (report.tenants !== null) console.log(`${report.tenants}.`)
  const wrong = `${counted(totals.error, 'error')}, ${counted(totals.warning, 'warning')}`
  console.log(
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

/**
 * Prints one line for many rows that have the same reason, and else one for each finding.
 *
 * @param count findings of the kind, listed or not
 * @param census counts those of an unknown master key, since only the first thousand are listed
 */
function printFindings(ofKind: readonly Finding[], count: number, census: readonly CensusRow[]): void {
  const groups = new Map<string, Finding[]>()
  for (const finding of ofKind) {
    const reason = reasonOf(finding)
    const group = groups.get(reason)
    if (group === undefined) groups.set(reason, [finding])
    else group.push(finding)
  }
  let unlisted = count - ofKind.length
  const lines: string[] = []
  for (const [reason, group] of groups) {
    if (group.length <= NAMED_ROWS || group[0]?.userId === undefined) {
      lines.push(...group.map(findingLine))
      continue
    }
    // Findings that are not listed are most likely like those that are, if these have one reason.
    const rows = groups.size === 1 ? count : Math.max(group.length, rowsUnder(group, census))
    unlisted = Math.max(0, unlisted - (rows - group.length))
    lines.push(
      `${counted(rows, 'row')}, such as ${group.slice(0, NAMED_ROWS).map(rowName).join('; ')}: ${reason}`,
    )
  }
  printSome(lines, lines.length + unlisted)
}

/** The live rows under the master key that findings say nobody gave; 0 if they say something else. */
function rowsUnder([first]: readonly Finding[], census: readonly CensusRow[]): number {
  if (first?.kind !== 'unknownMasterKey' || first.kekId === undefined) return 0
  return liveCount(census, ({ kekId, ofTenants }) => kekId === first.kekId && !ofTenants)
}

/** So many rows with one reason are named. */
const NAMED_ROWS = 3

function findingLine(finding: Finding): string {
  return finding.userId === undefined ? reasonOf(finding) : `${rowName(finding)}: ${reasonOf(finding)}`
}

function rowName(finding: Finding): string {
  return `${ownerName(finding.userId ?? '')}${versionText(finding)}`
}

function versionText({ version, exactVersion }: Pick<Finding, 'version' | 'exactVersion'>): string {
  return `, version ${exactVersion ?? version ?? '?'}`
}

/** What is wrong, without the row's name, which stands before it or is one of many. */
function reasonOf(finding: Finding): string {
  const reason = withoutLibraryAdvice(finding.reason)
  if (finding.userId === undefined) return printableSentence(reason)
  const name = ` of ${describeUser(finding.userId)}${versionText(finding)}`
  return printableSentence(reason.replace(`${name}, is`, ' is').replace(name, () => ''))
}
