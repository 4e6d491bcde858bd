/** `keystore status`: what is in the store, by master key and version. Needs no master key. */
import Table from 'cli-table3'
import { Command } from 'commander'
import { openStore, type StoreOptions, withStore } from './options.js'

export function statusCommand(): Command {
  return withStore(new Command('status'))
    .description('Count the keys in the store by master key and version.')
    .option('--json', 'print the counts as JSON')
    .action(async ({ json, ...options }: StoreOptions & { readonly json?: boolean }) => {
      const store = await openStore(options, 'check')
      try {
        const rows = await store.census()
        if (json) console.log(JSON.stringify(rows))
        else if (rows.length === 0) console.log('The store has no keys yet.')
        else {
          const table = plainTable(['master key', 'key version', 'state', 'keys'])
          for (const { kekId, version, shredded, count } of rows) {
            table.push([
              kekId ?? 'none named (the Python reference)',
              version,
              shredded ? 'shredded' : 'live',
              count,
            ])
          }
          console.log(table.toString())
        }
      } finally {
        await store.close()
      }
    })
}

/** Without colours: the same on a terminal, in a file and in a log. */
export function plainTable(head: string[]): Table.Table {
  return new Table({ head, style: { head: [], border: [] } })
}
