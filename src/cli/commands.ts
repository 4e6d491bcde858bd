/** The commands, one entry each: what the overview says of it, and how it is loaded. */
import type { Command } from 'commander'

export interface CommandEntry {
  /** The heading under which the overview has it. */
  readonly group: string
  /** What it does, in a line of the overview. */
  readonly summary: string
  readonly load: () => Promise<Command>
}

/** The commands, in the order of the overview. Only the requested one is loaded, because loading takes most of a short command's time. */
export const COMMANDS: ReadonlyMap<string, CommandEntry> = new Map([
  [
    'init',
    {
      group: 'Begin',
      summary: 'make a master key and an empty store',
      load: async () => (await import('./init.js')).initCommand(),
    },
  ],
  [
    'quickstart',
    {
      group: 'Begin',
      summary: 'encrypt 20 made-up secrets, read them back, decrypt and compare',
      load: async () => (await import('./quickstart.js')).quickstartCommand(),
    },
  ],
  [
    'migrate',
    {
      group: 'Begin',
      summary: 'apply the migrations that a store lacks',
      load: async () => (await import('./migrate.js')).migrateCommand(),
    },
  ],
  [
    'encrypt',
    {
      group: 'Secrets',
      summary: 'encrypt standard input for a user, and print the token',
      load: async () => (await import('./crypt.js')).encryptCommand(),
    },
  ],
  [
    'decrypt',
    {
      group: 'Secrets',
      summary: 'decrypt the token on standard input',
      load: async () => (await import('./crypt.js')).decryptCommand(),
    },
  ],
  [
    'reencrypt',
    {
      group: 'Secrets',
      summary: "sweep an application's tables: plaintext and old tokens become new ones",
      load: async () => (await import('./reencrypt.js')).reencryptCommand(),
    },
  ],
  [
    'status',
    {
      group: 'Look',
      summary: 'count the keys by master key, version and age',
      load: async () => (await import('./status.js')).statusCommand(),
    },
  ],
  [
    'doctor',
    {
      group: 'Look',
      summary: 'open every key, check the store, say what is wrong and what to do',
      load: async () => (await import('./doctor.js')).doctorCommand(),
    },
  ],
  [
    'tenants',
    {
      group: 'Look',
      summary: 'list the tenants and the roots that wrap their keys',
      load: async () => (await import('./tenants.js')).tenantsCommand(),
    },
  ],
  [
    'new-master-key',
    {
      group: 'Master keys',
      summary: 'make one',
      load: async () => (await import('./new-master-key.js')).newMasterKeyCommand(),
    },
  ],
  [
    'rewrap',
    {
      group: 'Master keys',
      summary: 'bring every key under the primary master key',
      load: async () => (await import('./rewrap.js')).rewrapCommand(),
    },
  ],
  [
    'rotate-user',
    {
      group: 'Keys of users',
      summary: 'make a new version of the key of a user, or of all that are old',
      load: async () => (await import('./rotate.js')).rotateUserCommand(),
    },
  ],
  [
    'prune',
    {
      group: 'Keys of users',
      summary: 'remove old versions; tokens under them are lost',
      load: async () => (await import('./prune.js')).pruneCommand(),
    },
  ],
  [
    'shred-user',
    {
      group: 'Keys of users',
      summary: 'erase the key of a user for good',
      load: async () => (await import('./shred.js')).shredUserCommand(),
    },
  ],
  [
    'rotate-tenant',
    {
      group: 'Keys of tenants',
      summary: 'make a new version of the key of a tenant',
      load: async () => (await import('./tenant-keys.js')).rotateTenantCommand(),
    },
  ],
  [
    'prune-tenant',
    {
      group: 'Keys of tenants',
      summary: 'remove versions under which nobody is any more',
      load: async () => (await import('./tenant-keys.js')).pruneTenantCommand(),
    },
  ],
  [
    'move-tenant',
    {
      group: 'Keys of tenants',
      summary: 'wrap the key of a tenant under another root',
      load: async () => (await import('./tenant-keys.js')).moveTenantCommand(),
    },
  ],
  [
    'evict-tenant',
    {
      group: 'Keys of tenants',
      summary: 'have every process forget the key of a tenant within two seconds',
      load: async () => (await import('./tenant-keys.js')).evictTenantCommand(),
    },
  ],
  [
    'shred-tenant',
    {
      group: 'Keys of tenants',
      summary: 'erase the key of a tenant for good, and with it all of its users',
      load: async () => (await import('./shred.js')).shredTenantCommand(),
    },
  ],
  [
    'copy',
    {
      group: 'Copies',
      summary: 'copy every key into another store, as from SQLite to Postgres',
      load: async () => (await import('./copy.js')).copyCommand(),
    },
  ],
  [
    'backup',
    {
      group: 'Copies',
      summary: 'copy the store into a new SQLite file',
      load: async () => (await import('./copy.js')).backupCommand(),
    },
  ],
  [
    'restore',
    {
      group: 'Copies',
      summary: 'copy a backup into the store',
      load: async () => (await import('./copy.js')).restoreCommand(),
    },
  ],
  [
    'completion',
    {
      group: 'Shell',
      summary: 'print a script that completes commands and options in your shell',
      load: async () => (await import('./completion.js')).completionCommand(),
    },
  ],
])
