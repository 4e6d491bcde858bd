/** `keystore migrate`: brings the table up to date, or with --check tells whether it is. */
import { Command } from 'commander'
import type { MigrationReport } from '../adapters/migrator.js'
import { type AdoptOptions, openStore, withAdoptableStore } from './options.js'

export function migrateCommand(): Command {
  return withAdoptableStore(new Command('migrate'))
    .description('Apply the migrations that the store lacks.')
    .option('--check', 'change nothing; exit code 1 if any is missing')
    .action(async ({ check, ...options }: AdoptOptions & { readonly check?: boolean }) => {
      const store = await openStore(options, check ? 'check' : 'auto')
      try {
        console.log(describeMigration(await store.ready()))
      } finally {
        await store.close()
      }
    })
}

export function describeMigration({ applied, adopted }: MigrationReport): string {
  if (applied.length === 0) return 'up to date'
  const from = adopted === null ? '' : `; adopted ${adopted} keys of the Python reference`
  return `applied ${applied.join(', ')}${from}`
}
