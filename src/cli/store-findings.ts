/** What `doctor` finds beside what `verifyAll` does: of the key log, of the pool, of files, and of the native core. */
import { whyNativeIsUnusable } from '../format/chosen-core.js'
import { readErasures } from '../key-log/erasures.js'
import type { LostKey } from '../key-log/lost-keys.js'
import { liveCount } from '../lifecycle/census.js'
import type { Finding, VerifyReport } from '../lifecycle/verify.js'
import { masterKeyFileProblem, secretFileProblem } from '../master-keys/environment.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import { variable } from '../master-keys/variables.js'
import type { CensusRow, KeyStore } from '../store.js'
import { tenantIdOf } from '../table.js'
import { areTogether, storeFile } from './git-ignore.js'
import { type MasterKeyOptions, masterKeyFiles } from './master-keys.js'
import type { StoreOptions } from './options.js'
import { counted } from './output.js'

/**
 * Tenants of other roots are warnings, since these may be customers' own. But a check that opened nothing at all has shown nothing: most likely
 * the master key is the wrong one.
 */
export function uncheckedFindings({ ok, census }: VerifyReport, masterKeys: MasterKeyring): Finding[] {
  // An error says what is wrong already.
  if (!ok) return []
  const isKnown = ({ kekId }: CensusRow) => kekId === null || masterKeys.find(kekId) !== null
  const count = liveCount(census, () => true)
  if (count === 0 || liveCount(census, isKnown) > 0) return []
  const reason =
    `None of the ${counted(count, 'live key')} is under a master key that was given, so that none was opened. Give the master key that the ` +
    'application has, or if all tenants have roots of their own, the root of one of them beside it: --previous-key-file FILE'
  return [{ severity: 'error', kind: 'nothingChecked', reason }]
}

/** Of missing tenants those that no restore brings back. */
export async function forgottenTenants(findings: readonly Finding[], keyLog: string): Promise<Finding[]> {
  const missing = findings.flatMap(({ kind, userId }) =>
    kind === 'tenantMissing' && userId !== undefined ? [userId] : [],
  )
  if (missing.length === 0) return []
  const erasures = await readErasures(keyLog)
  return [...new Set(missing)]
    .filter((userId) => erasures.has(userId))
    .map((userId) => {
      const reason =
        'The key log says that it was shredded and forgotten: a restore that is given the log does not bring it back, and its users are lost. If that ' +
        'was a mistake, take the lines of that shred out of the log before you restore it'
      return { severity: 'error', kind: 'tenantForgotten', userId, reason } as const
    })
}

export function unfinishedFinding(userId: string): Finding {
  const [who, command] = tenantIdOf(userId) === null ? ['user', 'shred-user'] : ['tenant', 'shred-tenant']
  const reason =
    `The key log says that its erasure was begun, and not that it was finished, and the ${who} has live keys: run ` +
    `\`npx keystore ${command}\` again, or go on with the ${who}`
  return { severity: 'warning', kind: 'unfinishedErasure', userId, reason }
}

export const LOST_KEY = 'keyLost'

export function lostKeyFinding({ userId, version, kekId, createdAt, replaced }: LostKey): Finding {
  const what = replaced ? 'another key stands in its place' : 'the store has no such row'
  const reason =
    `The key log says that it was made ${createdAt.toISOString()}, and ${what}. Tokens under it cannot be decrypted: restore a backup that ` +
    'has it, or give it up with --give-up-lost-keys'
  return { severity: 'error', kind: LOST_KEY, userId, version, kekId, reason }
}

/** A tombstone of the pool: of `envelope.pool.shred()`, of another store, or made by hand. */
export async function poolFindings(store: KeyStore): Promise<Finding[]> {
  const pool = (await store.getActive([''])).get('')
  if (pool === undefined || pool.shreddedAt === null) return []
  const reason =
    'The pool was shredded: every use of it fails. To make it a new key: npx keystore shred-user --pool --forget'
  return [{ severity: 'error', kind: 'poolShredded', userId: '', version: pool.version, reason }]
}

/** Master key files that others can read, or that are beside the database. */
export function fileFindings(options: StoreOptions & MasterKeyOptions): Finding[] {
  const database = storeFile(options.store)
  const secrets = Object.entries(SECRET_FILES).flatMap(([name, what]): Finding[] => {
    const path = variable(process.env, name)?.trim()
    const reason = path === undefined ? null : secretFileProblem(path, what)
    return reason === null ? [] : [{ severity: 'warning', kind: 'keyFileMode', reason }]
  })
  const ofKeys = masterKeyFiles(options).flatMap((path) => {
    const findings: Finding[] = []
    const reason = masterKeyFileProblem(path)
    if (reason !== null) findings.push({ severity: 'warning', kind: 'keyFileMode', reason })
    if (database !== null && areTogether(path, database))
      findings.push({ severity: 'warning', kind: 'keyBesideStore', reason: oneFolder(path, database) })
    return findings
  })
  return [...ofKeys, ...secrets]
}

/** What opens a key service. */
const SECRET_FILES: Readonly<Record<string, string>> = { PKCS11_PIN_FILE: 'PIN', VAULT_TOKEN_FILE: 'token' }

function oneFolder(keyFile: string, database: string): string {
  return (
    `The master key file ${keyFile} and the database ${database} are in one folder, and so most likely in one backup: whoever has both can ` +
    'decrypt everything. Move the master key, or leave it out of the backup'
  )
}

/** The command is mostly run with the packages of the application: what it cannot use, the application cannot. */
export function coreFindings(): Finding[] {
  const why = whyNativeIsUnusable()
  if (why === null) return []
  const reason = `JavaScript encrypts and decrypts instead of the native core, which takes more time: ${why}`
  return [{ severity: 'warning', kind: 'nativeCore', reason }]
}
