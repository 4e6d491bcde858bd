/** `keystore reencrypt`: re-encrypts the values in an application's own tables. */
import { Command, InvalidArgumentError } from 'commander'
import { isPostgresUrl } from '../drivers/url.js'
import { invalidArgument, printable } from '../errors.js'
import type { ColumnContext } from '../format/context.js'
import { MOST_OWNERS } from '../reencrypt/owner-count.js'
import { type ReencryptOptions, type ReencryptReport, reencrypt } from '../reencrypt/reencrypt.js'
import { type SqlSourceOptions, sqlSource } from '../sources/sql.js'
import type { ValueKey, ValueSource } from '../sources/value-source.js'
import { openEnvelope } from './envelope.js'
import { withExistingStore } from './existing-store.js'
import { type LongWorkControls, runLongCommand } from './long-command.js'
import { findMasterKeys, type MasterKeyOptions, withMasterKeys } from './master-keys.js'
import {
  type AcceptOptions,
  type ChangeOptions,
  closeAfter,
  type KeyLogOptions,
  type StoreOptions,
  wholeNumber,
  withAcceptV2,
  withDryRun,
  withKeyLog,
  withStore,
} from './options.js'
import { counted, printableId, printJson, printSome, setExitCode, thousands } from './output.js'
import { printableSentence } from './printable.js'
import { say, sayIndented } from './say.js'
import { databaseUrl, type SchemaOptions, schemaTables, withHost, withSchema } from './schema-file.js'
import { printTable } from './tables.js'

interface ReencryptCommandOptions
  extends StoreOptions,
    MasterKeyOptions,
    AcceptOptions,
    ChangeOptions,
    KeyLogOptions,
    SchemaOptions {
  readonly table?: string
  readonly dbSchema?: string
  readonly key?: readonly string[]
  readonly owner?: string
  readonly pool?: boolean
  readonly column?: readonly string[]
  readonly context?: ColumnContext
  readonly previousContext?: readonly ColumnContext[]
  readonly plaintext?: boolean
  readonly ciphertextAsPlaintext?: boolean
  readonly newestFingerprints?: boolean
  readonly batchSize?: number
}

type TableReport = ReencryptReport & { readonly table: string }

interface SweepReport {
  readonly complete: boolean
  readonly tables: readonly TableReport[]
}

export function reencryptCommand(): Command {
  const command = withKeyLog(withDryRun(withAcceptV2(withMasterKeys(withStore(new Command('reencrypt'))))))
  return withSchema(command, 'sweep all of its tables')
    .description(
      "Re-encrypt the values in an application's tables: in format v3, under the newest version of their owners' keys and the wanted " +
        'context. Replaces a value only if nobody else has changed it meanwhile. Safe to repeat and to interrupt. Exit code 1 if values ' +
        'in an old state are left.',
    )
    .option(
      '--table <name>',
      'instead of --schema: sweep this one table; it needs --key, --column, --context, and --owner or --pool',
    )
    .option('--db-schema <name>', "Postgres: the table's schema")
    .option('--key <column>', 'a column of its primary key; may be repeated', collect)
    .option('--owner <column>', "the column with the user's id")
    .option(
      '--pool',
      'instead of --owner: all values belong to the shared pool; beside it: those of rows without an owner do',
    )
    .option('--column <name>', 'a column with values; may be repeated', collect)
    .option(
      '--context <context>',
      'with --table: the context that the values shall have. Text is short for {"column": text}, as in encryptedText; text that begins with { is a JSON object; \'\' is no context',
      parseContext,
    )
    .option(
      '--previous-context <context>',
      'a context that values may have until now, in the same form; may be repeated',
      (text: string, contexts: readonly ColumnContext[] = []) => [...contexts, parseContext(text)],
    )
    .option(
      '--plaintext',
      'encrypt values that are no token; without it they are reported and left as they are',
    )
    .option(
      '--ciphertext-as-plaintext',
      'with --plaintext: encrypt also what looks like ciphertext of another library; without it these values are reported and left as they are',
    )
    .option(
      '--newest-fingerprints',
      'make fingerprints with the newest version of the key, before older versions are pruned; without it with the lowest live one',
    )
    .option('--batch-size <rows>', 'rows a transaction, 1 to 5,000 (default: 1,000)', wholeNumber)
    .addHelpText(
      'after',
      '\nExamples:\n' +
        '  npx keystore reencrypt --db app.db --schema dist/schema.js --dry-run\n' +
        '  npx keystore reencrypt --db app.db --table credentials \\\n' +
        '    --key id --owner user_id --column api_key --context credentials.api_key',
    )
    .action((options: ReencryptCommandOptions) => {
      const masterKeys = findMasterKeys(options)
      assertTarget(options)
      return withExistingStore(options, (store) =>
        runLongCommand(
          options,
          async (controls) => {
            const envelope = await openEnvelope(store, masterKeys, options)
            return closeAfter(envelope, () =>
              sweepAll(options, controls, { ...sweepOptions(options), envelope }),
            )
          },
          (report) => {
            printSweep(report, options)
            setExitCode(report.complete && report.tables.every(isInOrder))
          },
        ),
      )
    })
}

function collect(text: string, earlier: readonly string[] = []): readonly string[] {
  return [...earlier, text]
}

/** An empty text gives `{}` and not null, because commander takes null for a missing value. */
function parseContext(text: string): ColumnContext {
  if (text === '') return {}
  if (!text.startsWith('{')) return text
  try {
    return JSON.parse(text)
  } catch {
    throw new InvalidArgumentError('It begins like a JSON object and is not valid JSON.')
  }
}

/** @throws ERR_INVALID_ARGUMENT */
function assertTarget({ schema, table, key, owner, pool, column, context }: ReencryptCommandOptions): void {
  if ((schema === undefined) === (table === undefined))
    throw invalidArgument('Name either --schema FILE or --table NAME')
  if (schema !== undefined) {
    if ([key, owner, pool, column, context].some((option) => option !== undefined))
      throw invalidArgument(
        'The registry of --schema says key, owner, pool, columns and contexts (defineEncrypted): leave these options out',
      )
    return
  }
  if (key === undefined || column === undefined || context === undefined)
    throw invalidArgument("--table needs --key, --column and --context too; --context '' is no context")
  if (owner === undefined && pool === undefined)
    throw invalidArgument('Name --owner COLUMN, or --pool if all values belong to the shared pool')
}

function sweepOptions(
  options: ReencryptCommandOptions,
): Omit<ReencryptOptions<never>, 'envelope' | 'source'> {
  const {
    previousContext = [],
    plaintext = false,
    ciphertextAsPlaintext = false,
    newestFingerprints = false,
    dryRun = false,
    batchSize,
  } = options
  return {
    previousContexts: previousContext,
    plaintext,
    ciphertextAsPlaintext,
    newestFingerprints,
    dryRun,
    batchSize,
  }
}

async function sweepAll(
  options: ReencryptCommandOptions,
  controls: LongWorkControls,
  sweep: Omit<ReencryptOptions<never>, 'source'>,
): Promise<SweepReport> {
  const tables: TableReport[] = []
  const sweepOne = async (table: string, source: ValueSource<never>) => {
    const onProgress: LongWorkControls['onProgress'] = (progress) =>
      controls.onProgress?.({ ...progress, phase: `${printable(table)}: ${progress.phase}` })
    tables.push({ table, ...(await reencrypt({ ...sweep, ...controls, onProgress, source })) })
  }
  const { schema, table = '' } = options
  if (schema === undefined) {
    const source = await sqlSource(databaseUrl(options), sourceOptions(options))
    await closeAfter(source, () => sweepOne(table, source as ValueSource<never>))
    return { complete: isComplete(tables), tables }
  }
  return withHost(options, async (host) => {
    const { registered } = await schemaTables(schema, options, host)
    for (const { name, source } of registered) if (!controls.signal?.aborted) await sweepOne(name, source())
    return { complete: isComplete(tables) && tables.length === registered.length, tables }
  })
}

function isInOrder({ left, findings }: TableReport): boolean {
  return left === 0 && findings.every(({ severity }) => severity !== 'error')
}

function isComplete(tables: readonly TableReport[]): boolean {
  return tables.every(({ complete }) => complete)
}

function sourceOptions(options: ReencryptCommandOptions): SqlSourceOptions {
  const { table = '', dbSchema, key = [], owner = null, pool = false, column = [], context = null } = options
  return {
    table,
    key,
    owner,
    pool,
    columns: Object.fromEntries(column.map((name) => [name, context])),
    ...(dbSchema === undefined ? {} : { schema: dbSchema }),
  }
}

function printSweep(report: SweepReport, options: ReencryptCommandOptions): void {
  if (options.json) {
    printJson(options.schema === undefined ? report.tables[0] : report)
    return
  }
  for (const table of report.tables) printTableReport(table, options)
  const isWritten = report.tables.some(
    ({ dryRun, before, after }) => !dryRun && before.plaintext > after.plaintext,
  )
  if (isWritten)
    say(isPostgresUrl(databaseUrl(options)) ? OLD_PLAINTEXTS_ON_POSTGRES : OLD_PLAINTEXTS_ON_SQLITE)
}

const OLD_PLAINTEXTS_ON_SQLITE =
  'Old plaintexts may still be in free pages and in the WAL of the database, and are in its backups: run VACUUM and then ' +
  'PRAGMA wal_checkpoint(TRUNCATE) in it (docs/REENCRYPT.md, "Old plaintexts").'
const OLD_PLAINTEXTS_ON_POSTGRES =
  'Old plaintexts are still in dead rows until VACUUM FULL of each table, and in the WAL, in replicas and in backups until these have ' +
  'expired (docs/REENCRYPT.md, "Old plaintexts").'

function printTableReport(report: TableReport, { plaintext }: ReencryptCommandOptions): void {
  const { table, complete, dryRun, changed, skipped, failed, failedCount, before, after, left, findings } =
    report
  say(
    `${printable(table)}: ${dryRun ? 'would re-encrypt' : 're-encrypted'} ${counted(changed, 'value')}; ${thousands(skipped)} skipped (changed by others ` +
      `meanwhile), ${thousands(failedCount)} failed.`,
  )
  if (report.owners.count > 0) say(ownersText(report))
  printSome(
    failed.map(
      ({ key, column, owner, code, reason }) =>
        `${keyText(key)}, ${printable(column)}, of ${owner === null ? 'no user' : printableId(owner)}: ${printableSentence(reason)} [${code}]`,
    ),
    failedCount,
  )
  const codes = new Set(failed.map(({ code }) => code))
  if (codes.has('ERR_NOT_ENCRYPTED') && !plaintext)
    sayIndented('--plaintext encrypts values that are no token.')
  if (codes.has('ERR_FORMAT_NOT_ACCEPTED'))
    sayIndented(
      '--accept-v2 reads values in format v2. Use it only if an earlier implementation wrote them: if not, somebody has put them there.',
    )
  const states: string[][] = []
  const found = new Map(Object.entries(before))
  for (const [state, now] of Object.entries(after)) {
    const then = found.get(state) ?? 0
    if (then + now > 0) states.push([printable(state), thousands(then), thousands(now)])
  }
  if (states.length > 0) printTable(['values', 'before', dryRun ? 'then' : 'now'], states)
  for (const { severity, reason } of findings) sayIndented(`${severity}: ${printableSentence(reason)}`)
  if (left > 0) say(`${counted(left, 'value')} ${dryRun ? 'would be ' : ''}left in an old state.`)
  else if (complete) say(`No value ${dryRun ? 'would be' : 'is'} left in an old state.`)
  else if (findings.some(({ kind }) => kind === 'wrongType')) say('No value was looked at.')
  else say('The sweep did not finish: run this again.')
}

/** A wrong owner column shows here: its ids have no keys. */
function ownersText({ owners: { count, withoutKey }, dryRun }: TableReport): string {
  if (count === 1)
    return `For 1 owner, who ${withoutKey === 1 ? lack('has', dryRun) : dryRun ? 'has a key' : 'had a key'}.`
  const of = count === MOST_OWNERS ? `${thousands(count)} owners or more` : counted(count, 'owner')
  if (withoutKey === 0) return `For ${of}, all of whom ${dryRun ? 'have' : 'had'} keys.`
  return `For ${of}, ${thousands(withoutKey)} of whom ${lack(withoutKey === 1 ? 'has' : 'have', dryRun)}.`
}

function lack(has: 'has' | 'have', dryRun: boolean): string {
  return dryRun ? `${has} no key yet, and would get one` : 'had no key, and got one'
}

function keyText(key: ValueKey): string {
  return printable(typeof key === 'object' ? key.map(String).join('/') : String(key))
}
