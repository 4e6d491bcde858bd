/** `keystore status`: counts the keys by master key and version. Needs no master key. */
import { Command } from 'commander'
import { commonRootIds, compareCensusRows, totalCount } from '../lifecycle/census.js'
import { COUNTING, maintenanceOf } from '../lifecycle/long-work.js'
import { formatOfKekId } from '../master-keys/kek-id.js'
import type { DatedCensusRow } from '../store.js'
import { storeName, withExistingStore } from './existing-store.js'
import { withIgnoredMasterKeys } from './master-keys.js'
import { type ReportOptions, type StoreOptions, withJson, withStore } from './options.js'
import { counted, countedKekName, printJson, thousands } from './output.js'
import { progressDisplay } from './progress.js'
import { say } from './say.js'
import { printTable } from './tables.js'
import { tenantSummary } from './tenant-summary.js'

/** Of more roots than these the rows of tenants are counted together. */
const NAMED_ROOTS = 20

export function statusCommand(): Command {
  return withIgnoredMasterKeys(withJson(withStore(new Command('status'))))
    .description('Count the keys in the store by master key, format, version and age.')
    .addHelpText('after', '\nExamples:\n  npx keystore status\n  npx keystore status --store app.db --json')
    .action((options: StoreOptions & ReportOptions) =>
      withExistingStore(options, async (store) => {
        const found = await commonRootIds(store)
        const rootIds = found.length > NAMED_ROOTS ? [] : found
        // A second and more for each million rows of SQLite.
        const display = await progressDisplay(options.json ?? false)
        display.show(COUNTING)
        const rows = (await maintenanceOf(store).datedCensus({ rootIds })).sort(compareCensusRows)
        display.end()
        if (options.json) return printJson(rows)
        printCensus(rows, storeName(options.store))
        const tenants = await tenantSummary(store, rows)
        if (tenants !== null) say(tenants)
      }),
    )
}

function printCensus(rows: readonly DatedCensusRow[], name: string): void {
  if (rows.length === 0) {
    say(`${name} has no keys yet. --store or KEYSTORE_URL names another store.`)
    return
  }
  const all = totalCount(rows)
  const live = totalCount(rows.filter(({ shredded }) => !shredded))
  const lines = rows.map((row) => {
    const { kekId, version, shredded, count, oldest, newest } = row
    // A tombstone of a user who had no key was never wrapped.
    const isWrapped = kekId !== null || !shredded
    const names = [isWrapped ? formatOfKekId(kekId) : '–', isWrapped ? countedKekName(row) : '–']
    const share = count / all
    return {
      start: [...names, String(version), shredded ? 'shredded' : 'live', thousands(count)],
      bar: bar(share),
      percent: percent(share),
      days: [day(oldest), day(newest)],
    }
  })
  const start = ['format', 'master key', 'version', 'state', 'keys', 'share']
  printTable(
    [...start, 'oldest', 'newest'],
    lines.map(({ start, bar, percent, days }) => [...start, `${bar} ${percent}`, ...days]),
    {
      head: [...start, 'oldest', 'newest'],
      rows: lines.map(({ start, percent, days }) => [...start, percent.trim(), ...days]),
    },
    {
      head: [...start, 'made'],
      rows: lines.map(({ start, percent, days }) => [
        ...start,
        percent.trim(),
        [...new Set(days)].join('\n'),
      ]),
    },
  )
  say(`${counted(live, 'live key')}, ${thousands(all - live)} shredded, in ${name}`)
}

const BAR_WIDTH = 20

/** At least one block, because an operator may be looking for a single row among a million. */
function bar(share: number): string {
  return '█'.repeat(Math.max(1, Math.round(share * BAR_WIDTH))).padEnd(BAR_WIDTH, '░')
}

function percent(share: number): string {
  const rounded = Math.round(share * 100)
  return `${rounded === 0 ? '< 1' : rounded} %`.padStart(5)
}

function day(time: Date): string {
  return time.toISOString().slice(0, 10)
}
