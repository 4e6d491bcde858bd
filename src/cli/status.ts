/** `keystore status`: what is in the store, by master key and version. Needs no master key. */
import { Command } from 'commander'
import { compareCensusRows } from '../lifecycle/census.js'
import type { DatedCensusRow } from '../store.js'
import {
  maintenanceOf,
  type ReportOptions,
  type StoreOptions,
  withExistingStore,
  withJson,
  withStore,
} from './options.js'
import { counted, formatOf, kekName, plainTable, printJson, thousands } from './output.js'

export function statusCommand(): Command {
  return withJson(withStore(new Command('status')))
    .description('Count the keys in the store by master key, format, version and age.')
    .action((options: StoreOptions & ReportOptions) =>
      withExistingStore(options, async (store) => {
        const rows = (await maintenanceOf(store).datedCensus()).sort(compareCensusRows)
        if (options.json) printJson(rows)
        else print(rows)
      }),
    )
}

function print(rows: readonly DatedCensusRow[]): void {
  if (rows.length === 0) {
    console.log('The store has no keys yet.')
    return
  }
  const all = total(rows)
  const live = total(rows.filter(({ shredded }) => !shredded))
  const head = ['format', 'master key', 'key version', 'state', 'keys', 'share', 'oldest', 'newest']
  const table = plainTable(head)
  for (const { kekId, version, shredded, count, oldest, newest } of rows) {
    const state = shredded ? 'shredded' : 'live'
    const share = `${bar(count / all)} ${percent(count / all)}`
    table.push([
      formatOf(kekId),
      kekName(kekId),
      version,
      state,
      thousands(count),
      share,
      day(oldest),
      day(newest),
    ])
  }
  console.log(table.toString())
  console.log(`${counted(live, 'live key')}, ${thousands(all - live)} shredded`)
}

function total(rows: readonly DatedCensusRow[]): number {
  return rows.reduce((sum, { count }) => sum + count, 0)
}

const BAR_WIDTH = 20

/** Never empty: a single row of a million is what an operator looks for. */
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
