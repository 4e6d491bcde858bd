/** `keystore doctor`: everything that can be wrong with a key store, found before a user does. */
import { Command } from 'commander'
import { isKeystoreError } from '../errors.js'
import { type Finding, type VerifyReport, verifyAll } from '../lifecycle/verify.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import { applyShredLog } from '../shred.js'
import { type ColumnFinding, sampleColumns } from '../sources/sample.js'
import type { ErasureState, KeyStore } from '../store.js'
import { type LongWork, runLong } from './long-command.js'
import { printMasterKeys } from './master-key-table.js'
import { findMasterKeys, type MasterKeyOptions, withMasterKeys } from './master-keys.js'
import {
  closing,
  maintenanceOf,
  openStore,
  type ReportOptions,
  type StoreOptions,
  withAcceptV2,
  withJson,
  withShredLog,
  withStore,
} from './options.js'
import { counted, exitWith, formatOf, printJson, printSome, quoted } from './output.js'
import { type OtherTable, type SchemaOptions, schemaTables, withHost, withSchema } from './schema-file.js'

interface DoctorOptions extends StoreOptions, MasterKeyOptions, ReportOptions, SchemaOptions {
  readonly acceptV2?: boolean
  readonly finishErasure?: boolean
  readonly shredLog?: string
}

interface DoctorReport extends VerifyReport {
  /** Users whom the shred log erased again. */
  readonly erasedAgain?: readonly string[]
  readonly erasure?: Required<ErasureState>
}

export function doctorCommand(): Command {
  const command = withShredLog(
    withJson(withAcceptV2(withMasterKeys(withStore(new Command('doctor'))))),
    'first erase again whoever this log of shred-user names and a backup brought back',
  )
  return withSchema(
    command,
    'also look for plaintext and for forgotten columns, in some rows of each table, by the registry that',
  )
    .description(
      'Open every key and look at the store itself; name each thing that is wrong and what to do. Exit code 1 if any is an error. ' +
        'Changes no row, unless --shred-log or --finish-erasure says so.',
    )
    .option(
      '--finish-erasure',
      'then take the step that shred receipts call pending; on Postgres it locks the table for seconds',
    )
    .action(async (options: DoctorOptions) => {
      const masterKeys = findMasterKeys(options)
      // A schema that is behind is a finding, and mended by `migrate` alone.
      await closing(await openStore(options, 'off'), (store) =>
        runLong(
          options,
          (long) => examine(store, masterKeys, options, long),
          (report) => {
            if (options.json) printJson(report)
            else print(report, options, masterKeys)
            exitWith(report.ok && report.erasure?.erased !== 'pending')
          },
        ),
      )
    })
}

async function examine(
  store: KeyStore,
  masterKeys: MasterKeyring,
  options: DoctorOptions,
  long: LongWork,
): Promise<DoctorReport> {
  const { acceptV2, finishErasure, shredLog } = options
  const maintenance = maintenanceOf(store)
  let erasedAgain: readonly string[] | undefined
  // A table that is not what we know cannot be written; verifyAll reports it.
  if (shredLog !== undefined && (await maintenance.inspect()).every(({ kind }) => kind !== 'schemaVersion'))
    erasedAgain = await applyShredLog({ store, shredLog })
  const keys = await verifyAll({ ...long, store, masterKeys, accept: acceptV2 ? ['v2', 'v3'] : ['v3'] })
  const report = withFindings(keys, await columnFindings(options))
  const erasure = finishErasure && report.complete ? await maintenance.finishErasure() : undefined
  return {
    ...report,
    ...(erasedAgain === undefined ? {} : { erasedAgain }),
    ...(erasure === undefined ? {} : { erasure }),
  }
}

/** @throws ERR_INVALID_ARGUMENT if the schema is not that of the database */
async function columnFindings(options: DoctorOptions): Promise<ColumnFinding[]> {
  const { schema } = options
  if (schema === undefined) return []
  return withHost(options, async (host) => {
    const findings: ColumnFinding[] = []
    const { registered, others } = await schemaTables(schema, options, host)
    for (const { name, plan, withColumns } of registered)
      findings.push(...(await sampleColumns(name, withColumns, plan.shape.columns)))
    for (const table of others) findings.push(...(await findingsOfOther(table)))
    return findings
  })
}

async function findingsOfOther({ name, encrypted, withColumns }: OtherTable): Promise<ColumnFinding[]> {
  const forgotten = encrypted.map((column) => ({
    severity: 'warning' as const,
    kind: 'unregistered' as const,
    reason: `${name}, column ${column}: it is an encrypted column, and no defineEncrypted names its table`,
  }))
  if (withColumns === null) return forgotten
  try {
    return [...forgotten, ...(await sampleColumns(name, withColumns, [], encrypted))]
  } catch (error) {
    // A schema may be about more tables than this database has, or be ahead of it.
    if (isKeystoreError(error) && error.code === 'ERR_INVALID_ARGUMENT') return forgotten
    throw error
  }
}

function withFindings(report: VerifyReport, more: readonly ColumnFinding[]): VerifyReport {
  const counts = { ...report.counts }
  for (const { kind } of more) counts[kind] = (counts[kind] ?? 0) + 1
  return {
    ...report,
    ok: report.ok && more.every(({ severity }) => severity === 'warning'),
    findings: [...report.findings, ...more],
    counts,
  }
}

function print(report: DoctorReport, options: DoctorOptions, keyring: MasterKeyring): void {
  const { erasedAgain, erasure, findings, counts } = report
  if (erasedAgain !== undefined)
    console.log(`The shred log erased ${counted(erasedAgain.length, 'user')} again.`)
  else if (options.shredLog !== undefined) console.log('The shred log was not applied: see schemaVersion.')
  printSome((erasedAgain ?? []).map(quoted), erasedAgain?.length ?? 0)

  const totals = { error: 0, warning: 0 }
  for (const [kind, count] of Object.entries(counts)) {
    const ofKind = findings.filter((finding) => finding.kind === kind)
    const severity = ofKind[0]?.severity ?? 'error'
    totals[severity] += count
    console.log(`${severity}: ${kind} (${count})`)
    printSome(ofKind.map(lineOf), count)
  }
  if (!options.acceptV2 && report.census.some(({ kekId, shredded }) => !shredded && formatOf(kekId) === 'v2'))
    console.log(V2_IS_AN_ERROR)
  if (report.masterKeys.length > 0) printMasterKeys(report.masterKeys, keyring)
  if (erasure?.erased === 'file')
    console.log('The erasure is finished: erased keys are in no file of the database any more.')
  else if (erasure !== undefined) console.log(`The erasure is not finished: ${erasure.pending ?? 'unknown'}`)
  const wrong = `${counted(totals.error, 'error')}, ${counted(totals.warning, 'warning')}`
  console.log(
    `${counted(report.rows, 'row')} looked at: ${totals.error + totals.warning === 0 ? 'nothing is wrong' : wrong}.`,
  )
}

const V2_IS_AN_ERROR =
  'Keys in format v2 are errors here, as they are for an application that does not accept v2. `keystore rewrap --accept-v2` upgrades them; ' +
  'with --accept-v2 they are warnings.'

function lineOf({ userId, version, reason }: Finding): string {
  return userId === undefined ? reason : `${quoted(userId)}, version ${version ?? '?'}: ${reason}`
}
