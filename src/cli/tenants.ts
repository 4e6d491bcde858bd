/** `keystore tenants`: lists the tenants that have keys of their own. Needs no master key. */
import { Command } from 'commander'
import { escaped, invalidArgument } from '../errors.js'
import { type ListedTenant, type TenantPage, tenantPage } from '../lifecycle/tenant-list.js'
import { type TenantState, withCounts } from '../lifecycle/tenants.js'
import type { KeyStore } from '../store.js'
import { assertTenantId } from '../validate.js'
import { ownCommand, repeatedOptions, shellWord } from './command-line.js'
import { withExistingStore } from './existing-store.js'
import { type ReportOptions, type StoreOptions, wholeNumber, withJson, withStore } from './options.js'
import { counted, kekName, printableId, printJson, setExitCode, thousands } from './output.js'
import { say } from './say.js'
import { printTable } from './tables.js'

interface TenantsCommandOptions extends StoreOptions, ReportOptions {
  readonly count?: boolean
  readonly after?: string
  readonly limit: number
}

interface TenantsReport extends Omit<TenantPage, 'tenants' | 'unreadable'> {
  /** With --count each version has the number of keys under it. */
  readonly tenants: readonly (ListedTenant | TenantState)[]
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
  const { tenants, next, unreadable } = await tenantPage(store, { after, limit })
  return {
    tenants: count ? await withCounts(store, tenants) : tenants,
    next,
    unreadable: unreadable.length,
  }
}

function printTenants(
  { tenants, next, unreadable }: TenantsReport,
  { count = false, after }: TenantsCommandOptions,
  command: Command,
): void {
  if (unreadable > 0)
    say(
      `${counted(unreadable, 'row')} of tenants cannot be read and ${unreadable === 1 ? 'is' : 'are'} left out: npx keystore doctor says what is wrong.`,
    )
  if (tenants.length === 0) {
    say(
      after === undefined
        ? 'The store has no tenants.'
        : `The store has no tenants after ${printableId(after)}.`,
    )
    return
  }
  const rows = tenants.map((tenant) => {
    const [first] = tenant.versions
    return [
      printableId(tenant.tenantId),
      versionsText(tenant.versions.map(({ version }) => version)),
      rootsOf(tenant)
        .map((kekId) => (kekId === null ? '–' : kekName(kekId)))
        .join('\n'),
      first?.createdAt.toISOString().slice(0, 10) ?? '–',
      stateOf(tenant),
      ...(count ? [thousands(keysOf(tenant))] : []),
    ]
  })
  printTable(['tenant', 'versions', 'root', 'since', 'state', ...(count ? ['keys of users'] : [])], rows)
  if (tenants.some(isUnderSeveralRoots)) say(MOVE_AGAIN)
  if (next === null) say(`${counted(tenants.length, 'tenant')}.`)
  else say(`${counted(tenants.length, 'tenant')}, and there are more: ${nextPage(next, command)}`)
}

const MOVE_AGAIN =
  'The versions of a tenant are under several roots while it is moved, and after a move that was interrupted: run move-tenant again.'

function rootsOf({ versions }: ListedTenant): (string | null)[] {
  return [...new Set(versions.map(({ kekId }) => kekId))]
}

function isUnderSeveralRoots(tenant: ListedTenant): boolean {
  return !tenant.shredded && rootsOf(tenant).length > 1
}

function stateOf(tenant: ListedTenant): string {
  const tombstone = tenant.versions.find(({ shreddedAt }) => shreddedAt !== null)
  if (tombstone?.shreddedAt) return `shredded ${tombstone.shreddedAt.toISOString().slice(0, 10)}`
  return isUnderSeveralRoots(tenant) ? 'live, several roots' : 'live'
}

function keysOf({ versions }: ListedTenant | TenantState): number {
  return versions.reduce((sum, version) => sum + ('keys' in version ? version.keys : 0), 0)
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
