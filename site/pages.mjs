// The pages of the site, in the order in which a reader needs them. The side bar, the staging of pages and llms.txt are made of this list.
// A page is a Markdown file of the repository; its address is its name in lower case.

import { readFileSync } from 'node:fs'

const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))

/** The address of the repository, without `.git`: null until package.json names one. */
export const repository =
  /^(?:git\+)?(https:.*?)(?:\.git)?$/.exec(manifest.repository?.url ?? manifest.repository ?? '')?.[1] ?? null

/** @typedef {{ file: string, title: string, says: string }} Page */

/** @type {{ title: string, pages: Page[] }[]} */
export const groups = [
  {
    title: 'Begin',
    pages: [
      {
        file: 'docs/QUICKSTART.md',
        title: 'Quick start',
        says: 'Install it into an existing project: master key, .gitignore, Docker, compose with Postgres, the first encrypted column',
      },
      {
        file: 'docs/CONCEPTS.md',
        title: 'Concepts',
        says: 'The key hierarchy, what a token holds, the life of a key, and what rewrap, rotate, re-encrypt and shred change',
      },
      {
        file: 'docs/BYOK-APP.md',
        title: 'An application to look at',
        says: 'In pictures: people bring their own API keys, and an operator looks after the master keys; how to start it, and its source',
      },
      {
        file: 'docs/WHY.md',
        title: 'Why not one key?',
        says: 'Five things that go wrong with one AES key in the environment, each in code that runs',
      },
      {
        file: 'docs/ALTERNATIVES.md',
        title: 'Alternatives',
        says: 'cloak, prisma-field-encryption, AWS KMS and its Encryption SDK, pgcrypto, Vault transit, Tink: where each is better',
      },
    ],
  },
  {
    title: 'Use it',
    pages: [
      {
        file: 'docs/CALLS.md',
        title: 'The calls',
        says: 'encrypt, decrypt, contexts, handles, scopes, bulk calls, the pool, the cache',
      },
      {
        file: 'docs/COLUMNS.md',
        title: 'Encrypted columns',
        says: 'Columns of your own Drizzle tables that hold tokens: scopes, owners, JSON, fingerprints to search by',
      },
      { file: 'docs/AUTH.md', title: 'Auth libraries', says: 'Better Auth, Auth.js, Hono, Next.js, tRPC' },
      {
        file: 'docs/REENCRYPT.md',
        title: 'Sweeping',
        says: 'Encrypt what your tables hold today, and bring old tokens up to date, while the application runs',
      },
      {
        file: 'docs/TESTING.md',
        title: 'Testing your application',
        says: 'A store in memory, fixtures, failures on purpose',
      },
      { file: 'docs/ERRORS.md', title: 'Errors', says: 'Every error code, its cause and the way out' },
    ],
  },
  {
    title: 'Come from',
    pages: [
      {
        file: 'docs/MIGRATING.md',
        title: 'Migrating',
        says: 'From a helper with one key, cloak and prisma-field-encryption, Better Auth, one-key applications, the Python reference',
      },
    ],
  },
  {
    title: 'Run it',
    pages: [
      {
        file: 'docs/DATABASES.md',
        title: 'Databases',
        says: 'Your own db, SQLite and Postgres, migrations, drizzle-kit, transactions',
      },
      {
        file: 'docs/POSTGRES.md',
        title: 'Postgres in production',
        says: 'Roles and grants, deadlines, pgbouncer, durability',
      },
      {
        file: 'docs/MASTER-KEYS.md',
        title: 'Master keys and tenants',
        says: 'A file, AWS, Azure, Google, Vault, PKCS#11, a key of your own; a root for each tenant',
      },
      {
        file: 'docs/OPERATIONS.md',
        title: 'Operations',
        says: 'Rotate the master key, recover from a leak, shred a user, back up and restore, switch to Postgres',
      },
      { file: 'docs/COMMANDS.md', title: 'Command line', says: 'Every command and every variable' },
      { file: 'docs/EVENTS.md', title: 'Events and metrics', says: 'What to alert on; OpenTelemetry' },
      {
        file: 'docs/RUNTIMES.md',
        title: 'Drivers and runtimes',
        says: 'Node.js, Bun, Deno, Cloudflare Workers; each driver, and what it cannot do',
      },
      {
        file: 'docs/BUNDLERS.md',
        title: 'Frameworks and bundlers',
        says: 'Next.js, esbuild, webpack, Vite, Jest, Vitest, CommonJS, TypeScript',
      },
    ],
  },
  {
    title: 'Extend it',
    pages: [
      {
        file: 'docs/EXTENDING.md',
        title: 'Your own KeyStore or MasterKey',
        says: 'The rules of both contracts, and the suites that test them',
      },
    ],
  },
  {
    title: 'Look inside',
    pages: [
      {
        file: 'SECURITY.md',
        title: 'Security',
        says: 'Who could attack what, what holds against each, and which test shows it',
      },
      {
        file: 'docs/FORMAT.md',
        title: 'Formats',
        says: 'The bytes of tokens and wrapped keys, good enough to write a reader in another language',
      },
      {
        file: 'docs/NATIVE.md',
        title: 'The native core',
        says: 'An optional addon in C++: when it is worth it, and what it checks before it is used',
      },
      {
        file: 'docs/BENCHMARKS.md',
        title: 'Benchmarks',
        says: 'All figures, and the targets that were missed',
      },
      {
        file: 'docs/DEPENDENCIES.md',
        title: 'Dependencies',
        says: 'A reason for each, its licence, and what is installed with the package',
      },
      {
        file: 'docs/VERSIONING.md',
        title: 'Versions and upgrades',
        says: 'What changes by which rules: the API, the formats, the table; what to do before an upgrade',
      },
      { file: 'docs/decisions/README.md', title: 'Decisions', says: 'Why things are as they are' },
      { file: 'CHANGELOG.md', title: 'Changelog', says: 'What changed' },
    ],
  },
]

/** Pages that other pages link to, and that no menu lists. */
export const folders = ['docs/decisions']

/** Files of code that pages link to, as pages of their own. */
export const examples = [
  'examples/credentials/app.ts',
  'examples/credentials/schema.ts',
  'examples/redis-source.ts',
  'examples/worker/worker.ts',
  'examples/worker/wrangler.jsonc',
]

/** The address of a page, without the leading slash: `columns`, `decisions/0001-own-migrator`, `decisions/`. */
export function routeOf(file) {
  return file
    .replace(/^docs\//, '')
    .replace(/(^|\/)README\.md$/, '$1index.md')
    .replace(/\.md$/, '')
    .toLowerCase()
}
