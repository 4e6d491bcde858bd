/** `keystore doctor`: checks a key store, and the encrypted columns of an application. */
import { Command } from 'commander'
import { isKeystoreError, printable } from '../errors.js'
import { type Finding, type VerifyReport, verifyAll } from '../lifecycle/verify.js'
import { formatOfKekId } from '../master-keys/kek-id.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import { applyShredLog } from '../shred.js'
import { type ColumnFinding, sampleColumns } from '../sources/sample.js'
import type { ErasureState, KeyStore } from '../store.js'
import { type LongWorkControls, runLongCommand } from './long-command.js'
import { printMasterKeys } from './master-key-table.js'
import { findMasterKeys, type MasterKeyOptions, withMasterKeys } from './master-keys.js'
import {
  type AcceptOptions,
  acceptedBesides,
  closeAfter,
  maintenanceOf,
  openStore,
  type ReportOptions,
  type StoreOptions,
  withAcceptV2,
  withJson,
  withShredLog,
  withStore,
} from './options.js'
import { counted, printableId, printJson, printSome, setExitCode } from './output.js'
import { printableSentence } from './printable.js'
import {
  type SchemaOptions,
  schemaTables,
  type UnregisteredTable,
  withHost,
  withSchema,
} from './schema-file.js'

interface DoctorCommandOptions
  extends StoreOptions,
    MasterKeyOptions,
    AcceptOptions,
    ReportOptions,
    SchemaOptions {
  readonly finishErasure?: boolean
  readonly shredLog?: string
}

interface DoctorReport extends VerifyReport {
  /** Users who were erased again because the shred log names them. */
  readonly erasedAgain?: readonly string[]
  readonly erasure?: Required<ErasureState>
}

export function doctorCommand(): Command {
  const command = withShredLog(
    withJson(withAcceptV2(withMasterKeys(withStore(new Command('doctor'))))),
    'a log of shred-user: first erase again the users in it whose keys a backup brought back',
  )
  return withSchema(
    command,
    'also check some rows of each table for plaintext and unregistered columns, by the registry that',
  )
    .description(
      'Unwrap every key and check the store itself; name each thing that is wrong and what to do. Exit code 1 if any is an error. ' +
        'Changes no row, except with --shred-log or --finish-erasure.',
    )
    .option(
      '--finish-erasure',
      'at the end, take the step that shred receipts call pending; on Postgres it locks the table for seconds',
    )
    .action(async (options: DoctorCommandOptions) => {
      const masterKeys = findMasterKeys(options)
      // An old schema is a finding: doctor does not migrate it.
      await closeAfter(await openStore(options, 'off'), (store) =>
        runLongCommand(
          options,
          (controls) => runChecks(store, masterKeys, options, controls),
          (report) => {
            if (options.json) printJson(report)
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
  const { finishErasure, shredLog } = options
  const maintenance = maintenanceOf(store)
  let erasedAgain: readonly string[] | undefined
  // A table of an unknown schema cannot be written. verifyAll reports it.
  if (shredLog !== undefined && (await maintenance.inspect()).every(({ kind }) => kind !== 'schemaVersion'))
    erasedAgain = await applyShredLog({ store, shredLog })
  const keys = await verifyAll({
    ...controls,
    store,
    masterKeys,
    accept: ['v3', ...acceptedBesides(options)],
  })
  const report = addFindings(keys, await columnFindings(options))
  const erasure = finishErasure && report.complete ? await maintenance.finishErasure() : undefined
  return {
    ...report,
    ...(erasedAgain === undefined ? {} : { erasedAgain }),
    ...(erasure === undefined ? {} : { erasure }),
  }
}

/** @throws ERR_INVALID_ARGUMENT if the schema is not that of the database */
async function columnFindings(options: DoctorCommandOptions): Promise<ColumnFinding[]> {
  const { schema } = options
  if (schema === undefined) return []
  return withHost(options, async (host) => {
    const findings: ColumnFinding[] = []
    const { registered, unregistered } = await schemaTables(schema, options, host)
    for (const { name, plan, withColumns } of registered)
      findings.push(...(await sampleColumns(name, withColumns, plan.shape.columns)))
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

function addFindings(report: VerifyReport, more: readonly ColumnFinding[]): VerifyReport {
  const counts = { ...report.counts }
  for (const { kind } of more) counts[kind] = (counts[kind] ?? 0) + 1
  return {
    ...report,
    ok: report.ok && more.every(({ severity }) => severity === 'warning'),
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
  if (erasedAgain !== undefined)
    console.log(`The shred log erased ${counted(erasedAgain.length, 'user')} again.`)
  else if (options.shredLog !== undefined) console.log('The shred log was not applied: see schemaVersion.')
  printSome((erasedAgain ?? []).map(printableId), erasedAgain?.length ?? 0)

  const totals = { error: 0, warning: 0 }
  for (const [kind, count] of Object.entries(counts)) {
    const ofKind = findings.filter((finding) => finding.kind === kind)
    const severity = ofKind[0]?.severity ?? 'error'
    totals[severity] += count
    console.log(`${severity}: ${kind} (${count})`)
    printSome(ofKind.map(findingLine), count)
  }
  if (
    !options.acceptV2 &&
    report.census.some(({ kekId, shredded }) => !shredded && formatOfKekId(kekId) === 'v2')
  )
    console.log(V2_IS_AN_ERROR)
  if (report.masterKeys.length > 0) printMasterKeys(report.masterKeys, keyring)
  if (erasure?.erased === 'file')
    console.log('The erasure is finished: erased keys are in no file of the database any more.')
  else if (erasure !== undefined)
    console.log(`The erasure is not finished: ${printableSentence(erasure.pending ?? 'unknown')}`)
  const wrong = `${counted(totals.error, 'error')}, ${counted(totals.warning, 'warning')}`
  console.log(
    `${counted(report.rows, 'row')} looked at: ${totals.error + totals.warning === 0 ? 'nothing is wrong' : wrong}.`,
  )
}

const V2_IS_AN_ERROR =
  'Keys in format v2 are errors here, because an application that does not accept v2 cannot read them. If the store was taken over from the ' +
  'Python reference, `keystore rewrap --accept-v2` upgrades them, and with --accept-v2 doctor reports them as warnings. If it was not, ' +
  'somebody has put them there.'

function findingLine({ userId, version, reason }: Finding): string {
  const said = printableSentence(reason)
  return userId === undefined ? said : `${printableId(userId)}, version ${version ?? '?'}: ${said}`
}
