/** `keystore tenants`: lists the tenants that have keys of their own. Needs no master key. */
import { Command } from 'commander'
import { escaped, invalidArgument } from '../errors.js'
import { type ListedTenant, listTenants, type TenantPage } from '../lifecycle/tenant-list.js'
import { tenantKekId } from '../master-keys/tenant-keys.js'
import type { KeyStore } from '../store.js'
import { assertTenantId } from '../validate.js'
import { ownCommand, repeatedOptions, shellWord } from './command-line.js'
import { withExistingStore } from './existing-store.js'
import {
  maintenanceOf,
  type ReportOptions,
  type StoreOptions,
  wholeNumber,
  withJson,
  withStore,
} from './options.js'
import { counted, kekName, plainTable, printableId, printJson, setExitCode, thousands } from './output.js'

interface TenantsCommandOptions extends StoreOptions, ReportOptions {
  readonly count?: boolean
  readonly after?: string
  readonly limit: number
}

/** A tenant as the report has it. */
interface ReportedTenant extends ListedTenant {
  /** With --count: live keys of users that are under the tenant's key. */
  readonly keysOfUsers?: number
}

interface TenantsReport extends Omit<TenantPage, 'tenants' | 'unreadable'> {
  readonly tenants: readonly ReportedTenant[]
  /** Rows of tenants that cannot be read. `doctor` names them. */
  readonly unreadable: number
}

const DEFAULT_LIMIT = 100
/** A page is held in memory. */
const MAX_LIMIT = 10_000

export function tenantsCommand(): Command {
  return withJson(withStore(new Command('tenants')))
    .description(
      'List the tenants: versions of the key, the root that wraps it, since when there is one, and whether it was shredded. In the order ' +
        'of the ids, page by page.',
    )
    .option('--count', 'also count the keys of users that are under the key of each tenant')
    .option('--after <tenant>', 'begin behind this id')
    .option('--limit <count>', 'the most tenants to list, 1 to 10,000', wholeNumber, DEFAULT_LIMIT)
    .addHelpText('after', '\nExample:\n  npx keystore tenants --count --limit 1000')
    .action((options: TenantsCommandOptions, command: Command) => {
      const { after, limit, json } = options
      if (limit < 1 || limit > MAX_LIMIT)
        throw invalidArgument(`--limit must be a whole number from 1 to ${thousands(MAX_LIMIT)}`)
      if (after !== undefined) assertTenantId(after, '--after')
      return withExistingStore(options, async (store) => {
        const report = await reportOf(store, options)
        if (json) printJson(report)
        else printTenants(report, options, command)
        setExitCode(report.unreadable === 0)
      })
    })
}

async function reportOf(
  store: KeyStore,
  { after, limit, count }: TenantsCommandOptions,
): Promise<TenantsReport> {
  const { tenants, next, unreadable } = await listTenants(store, { after, limit })
  return {
    tenants: count ? await withCounts(store, tenants) : tenants,
    next,
    unreadable: unreadable.length,
  }
}

async function withCounts(store: KeyStore, tenants: readonly ListedTenant[]): Promise<ReportedTenant[]> {
  const kekIds = tenants.map(({ tenantId, versions }) =>
    versions.map((version) => tenantKekId({ tenantId, version })),
  )
  const counts = await maintenanceOf(store).countUnder(kekIds.flat())
  return tenants.map((tenant, index) => ({
    ...tenant,
    keysOfUsers: (kekIds[index] ?? []).reduce((sum, kekId) => sum + (counts.get(kekId) ?? 0), 0),
  }))
}

function printTenants(
  { tenants, next, unreadable }: TenantsReport,
  { count = false, after }: TenantsCommandOptions,
  command: Command,
): void {
  if (unreadable > 0)
    console.log(
      `${counted(unreadable, 'row')} of tenants cannot be read and ${unreadable === 1 ? 'is' : 'are'} left out: npx keystore doctor says what is wrong.`,
    )
  if (tenants.length === 0) {
    console.log(
      after === undefined
        ? 'The store has no tenants.'
        : `The store has no tenants after ${printableId(after)}.`,
    )
    return
  }
  const table = plainTable([
    'tenant',
    'versions',
    'root',
    'since',
    'state',
    ...(count ? ['keys of users'] : []),
  ])
  for (const tenant of tenants) {
    const { tenantId, versions, kekIds, createdAt, keysOfUsers = 0 } = tenant
    table.push([
      printableId(tenantId),
      versionsText(versions),
      kekIds.map((kekId) => (kekId === null ? '–' : kekName(kekId))).join('\n'),
      createdAt.toISOString().slice(0, 10),
      stateOf(tenant),
      ...(count ? [thousands(keysOfUsers)] : []),
    ])
  }
  console.log(table.toString())
  if (tenants.some(isUnderSeveralRoots)) console.log(MOVE_AGAIN)
  if (next === null) console.log(`${counted(tenants.length, 'tenant')}.`)
  else console.log(`${counted(tenants.length, 'tenant')}, and there are more: ${nextPage(next, command)}`)
}

const MOVE_AGAIN =
  'The versions of a tenant are under several roots while it is moved, and after a move that was interrupted: run move-tenant again.'

function isUnderSeveralRoots({ shreddedAt, kekIds }: ListedTenant): boolean {
  return shreddedAt === null && kekIds.length > 1
}

function stateOf(tenant: ListedTenant): string {
  if (tenant.shreddedAt !== null) return `shredded ${tenant.shreddedAt.toISOString().slice(0, 10)}`
  return isUnderSeveralRoots(tenant) ? 'live, several roots' : 'live'
}

function versionsText(versions: readonly number[]): string {
  const [first, last] = [versions[0], versions.at(-1)]
  return versions.length > 3 ? `${first} … ${last}` : versions.join(', ')
}

/** The command for the next page. An id that acts on a terminal is not printed, and cannot be typed. */
function nextPage(next: string, command: Command): string {
  if (escaped(next) !== next) return 'go on with --after and the id that --json gives as next'
  const options = repeatedOptions(command, ['store', 'limit', 'count'])
  return `${ownCommand()} tenants${options} --after ${shellWord(next)}`
}
