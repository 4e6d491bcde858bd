/** `keystore migrate`: brings the table up to date, or with --check tells whether it is. */
import { Command } from 'commander'
import type { MigrationReport } from '../adapters/migrator.js'
import { assertStoreExists } from './existing-store.js'
import { openStore } from './open-store.js'
import { type AdoptOptions, closeAfter, withAdoptableStore } from './options.js'
import { say } from './say.js'

interface MigrateOptions extends AdoptOptions {
  readonly check?: boolean
}

export function migrateCommand(): Command {
  return withAdoptableStore(new Command('migrate'))
    .description('Apply the migrations that the store lacks.')
    .option('--check', 'change nothing; exit code 1 if any is missing')
    .addHelpText(
      'after',
      '\nExamples:\n  npx keystore migrate --check\n  KEYSTORE_URL="$DATABASE_URL" npx keystore migrate',
    )
    .action(async ({ check = false, store: url, adopt = false }: MigrateOptions) => {
      // A file is made by init alone. In a database of Postgres, which is there, the one who may make tables makes the first too.
      assertStoreExists(url)
      const store = await openStore(url, {
        migrate: check ? 'check' : 'auto',
        ...(adopt ? { adopt } : {}),
      })
      await closeAfter(store, async () => say(describeMigration(await store.ready())))
    })
}

export function describeMigration({ applied, adopted }: MigrationReport): string {
  if (applied.length === 0) return 'up to date'
  const from = adopted === null ? '' : `; adopted ${adopted} keys of the Python reference`
  return `applied ${applied.join(', ')}${from}`
}
