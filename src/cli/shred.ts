/** `keystore shred-user` and `keystore shred-tenant`: erase a user's keys, a tenant's, or make room for a new key of the pool. They need no master key. */
import { Command } from 'commander'
import { invalidArgument, isKeystoreError, type KeystoreError } from '../errors.js'
import { isNamedIn } from '../key-log/erasures.js'
import { maintenanceOf } from '../lifecycle/long-work.js'
import { type ForgottenUsers, forgetUsersOf } from '../lifecycle/tenant-users.js'
import { tenantKekId } from '../master-keys/tenant-keys.js'
import { type ShredReceipt, shredIn } from '../shred.js'
import type { KeyStore } from '../store.js'
import { type KeyRecord, tenantUserId } from '../table.js'
import { assertTenantId, assertUserId } from '../validate.js'
import { inThisRuntime, shellWord } from './command-line.js'
import { assertCanAsk, type ConfirmOptions, isTyped } from './confirm.js'
import { noSuchTenant, noSuchUser, withExistingStore, withoutLibraryAdvice } from './existing-store.js'
import { runLongCommand } from './long-command.js'
import {
  type ChangeOptions,
  type KeyLogOptions,
  recordingStore,
  type StoreOptions,
  withDryRun,
  withKeyLog,
  withStore,
} from './options.js'
import { counted, erasedFrom, kekName, ownerName, printJson } from './output.js'
import { printableSentence } from './printable.js'
import { say, sayError } from './say.js'

interface ShredCommandOptions extends StoreOptions, ChangeOptions, ConfirmOptions, KeyLogOptions {
  readonly forget?: boolean
  readonly pool?: boolean
  readonly allowUnknown?: boolean
  readonly withUsers?: boolean
}

/** The options that both have. */
function shredCommand(name: string): Command {
  return withKeyLog(
    withDryRun(withStore(new Command(name))),
    'a file outside the database and its backups: the shred is recorded there first, and restore, copy and doctor apply it again',
  ).option('--yes', 'do not ask')
}

export function shredUserCommand(): Command {
  return shredCommand('shred-user')
    .description(
      'Erase all versions of the key of a user: nothing encrypted under them can ever be decrypted again. Asks you to type the id.',
    )
    .argument('[user]', 'the user')
    .option(
      '--forget',
      'remove the rows too, so that the user can get a new key later; without it every later use is an error',
    )
    .option('--pool', 'instead of a user, and with --forget only: the key of the pool. ITS TOKENS ARE LOST')
    .option(
      '--allow-unknown',
      'for a user who has no key: leave a tombstone all the same, so that none can be made; without it an unknown id is an error',
    )
    .addHelpText(
      'after',
      '\nExamples:\n  npx keystore shred-user alice --key-log keys.jsonl\n  npx keystore shred-user --yes -- --an-id-like-an-option',
    )
    .action((user: string | undefined, options: ShredCommandOptions) =>
      shred(ownerOf(user, options), options),
    )
}

export function shredTenantCommand(): Command {
  return shredCommand('shred-tenant')
    .description(
      'Erase all versions of the key of a tenant, and with it the keys of ALL USERS of the tenant: nothing of them can ever be decrypted ' +
        'again. Asks you to type the id.',
    )
    .argument('<tenant>', 'the tenant')
    .option(
      '--forget',
      "remove the tenant's rows too, so that the tenant can begin anew once its users are forgotten; their rows stay, and nobody can open them",
    )
    .option('--with-users', 'also forget the users of the tenant: remove their rows, and with them their ids')
    .option(
      '--allow-unknown',
      'for a tenant that has no key: leave a tombstone all the same, so that none can be made; without it an unknown id is an error',
    )
    .addHelpText(
      'after',
      '\nExamples:\n  npx keystore shred-tenant acme --dry-run\n  npx keystore shred-tenant acme --key-log keys.jsonl',
    )
    .action((tenantId: string, options: ShredCommandOptions) => shred(tenantOwner(tenantId), options))
}

/** Whose keys are erased. */
interface Owner {
  readonly userId: string
  readonly name: string
  /** What has to be typed, and what it is. */
  readonly typed: string
  readonly word: string
  /** What is lost. */
  readonly warning: string
  /** Absent: it is a user, or the pool. */
  readonly tenantId?: string
}

async function shred(owner: Owner, options: ShredCommandOptions): Promise<void> {
  const { userId, name, tenantId } = owner
  const { forget = false, yes = false, keyLog, dryRun = false, json = false } = options
  const { allowUnknown = false, withUsers = false } = options
  if (!dryRun) assertCanAsk(options, 'shred')
  await withExistingStore(options, async (store) => {
    const rows = await rowsOf(store, userId)
    // A mistyped id would get a tombstone, and its owner's keys would stay.
    const isUnknown = rows?.length === 0 && userId !== '' && !allowUnknown
    // Whoever is in the log had keys: a forget may have been interrupted before its last line.
    if (isUnknown && (keyLog === undefined || !(await isNamedIn(keyLog, userId)))) throw noSuchOwner(owner)
    const ofTenant =
      tenantId === undefined ? {} : { tenantId, keysOfUsers: await countKeys(store, tenantId, rows) }
    if (dryRun || !yes) {
      const versions = (rows ?? [])
        .filter(({ shreddedAt }) => shreddedAt === null)
        .map(({ version }) => version)
      if (dryRun && json) return printJson({ ...ofTenant, userId, versions, forget, dryRun })
      const found = `${name} has ${rows === null ? 'rows that cannot be read' : `${versionsText(versions)}${sinceText(rows)}`}${usersText(ofTenant)}.`
      if (dryRun) return say(`${found} Would ${forget ? 'erase and forget' : 'erase'} what there is.`)
      sayError(`${found} ${owner.warning}`)
      if (!(await isTyped(`To shred ${name} type ${owner.word}: `, owner.typed)))
        throw new Error(`What was typed is not ${owner.word}: nothing was shredded`)
    }
    const recording = recordingStore(store, options)
    const { pending, ...rest } = await shredIn(recording, userId, { forget: forget && !withUsers })
    const receipt = {
      ...ofTenant,
      ...rest,
      pending: pending === null ? null : withoutLibraryAdvice(pending),
    }
    const print = (receipt: ShredReceipt & OfTenant) => {
      if (json) printJson(receipt)
      else printReceipt(receipt, name, { ...options, hadRows: rows?.length !== 0 })
    }
    if (tenantId === undefined || !withUsers) return print(receipt)
    await runLongCommand<ShredReceipt & OfTenant & Pick<ForgottenUsers, 'complete'>>(
      options,
      async (controls) => {
        const { complete, ...users } = await forgetUsersOf({ ...controls, store: recording, tenantId })
        // Only the rows of the tenant say which keys its users are under: they go last.
        const isForgotten = forget && complete
        if (isForgotten) await shredIn(recording, userId, { forget: true })
        return { ...receipt, forget: isForgotten, users, complete }
      },
      print,
    )
  })
}

function noSuchOwner({ userId, tenantId }: Owner): KeystoreError {
  const rest = 'nothing was shredded. If there shall be a tombstone all the same: --allow-unknown'
  return tenantId === undefined ? noSuchUser(userId, rest) : noSuchTenant(tenantId, rest)
}

/** What a shred of a tenant says besides. */
interface OfTenant {
  readonly tenantId?: string
  /** The keys of users that end with the tenant's; null: it is unknown, since a row of the tenant cannot be read. */
  readonly keysOfUsers?: number | null | undefined
  /** With --with-users. */
  readonly users?: Omit<ForgottenUsers, 'complete'>
}

/** @param rows of the tenant's own key; null if one cannot be read */
async function countKeys(
  store: KeyStore,
  tenantId: string,
  rows: readonly KeyRecord[] | null,
): Promise<number | null> {
  if (rows === null) return null
  const kekIds = rows.map(({ version }) => tenantKekId({ tenantId, version }))
  const counts = await maintenanceOf(store).countUnder(kekIds)
  return [...counts.values()].reduce((sum, count) => sum + count, 0)
}

function usersText({ keysOfUsers }: OfTenant): string {
  if (keysOfUsers === undefined) return ''
  if (keysOfUsers === null) return ', and nobody can say how many keys of users are under them'
  return `, and ${counted(keysOfUsers, 'key')} of its users ${keysOfUsers === 1 ? 'is' : 'are'} under it`
}

/** @returns null if a row cannot be read: what is damaged can be shredded too */
async function rowsOf(store: KeyStore, userId: string): Promise<readonly KeyRecord[] | null> {
  try {
    return (await store.getAll([userId])).get(userId) ?? []
  } catch (error) {
    if (isKeystoreError(error) && 'ref' in error && error.ref !== undefined) return null
    throw error
  }
}

/** @throws ERR_INVALID_ARGUMENT */
function ownerOf(user: string | undefined, { pool = false, forget = false }: ShredCommandOptions): Owner {
  if ((user !== undefined) === pool) throw invalidArgument('Give exactly one of them: a user, or --pool')
  if (user === undefined) {
    if (!forget)
      throw invalidArgument(
        'The key of the pool can only be forgotten, so that the next write makes a new one: give --forget too',
      )
    return { userId: '', name: 'the pool', typed: 'pool', word: 'the word pool', warning: POOL_WARNING }
  }
  assertUserId(user)
  const warning = 'What is encrypted under it can never be decrypted again.'
  return { userId: user, name: ownerName(user), typed: user, word: 'the id', warning }
}

function tenantOwner(tenantId: string): Owner {
  assertTenantId(tenantId)
  const userId = tenantUserId(tenantId)
  const warning = 'What is encrypted for any of its users can never be decrypted again.'
  return { userId, tenantId, name: ownerName(userId), typed: tenantId, word: "the tenant's id", warning }
}

const POOL_WARNING =
  'All v3 tokens of the pool are lost, whoever they belong to, and so is the meaning of its fingerprints. The next write makes a new key.'

function versionsText(versions: readonly number[]): string {
  if (versions.length === 0) return 'no live key'
  return `${versions.length === 1 ? 'version' : 'versions'} ${versions.join(', ')}`
}

/** Since when there is nothing to erase any more. */
function sinceText(rows: readonly KeyRecord[]): string {
  const at = rows.find(({ shreddedAt }) => shreddedAt !== null)?.shreddedAt
  return at ? ` (shredded ${at.toISOString().slice(0, 10)})` : ''
}

function printReceipt(
  { versions, kekIds, at, erased, pending, forget, tenantId, keysOfUsers, users }: ShredReceipt & OfTenant,
  name: string,
  { store, keyLog, hadRows }: Pick<ShredCommandOptions, 'store' | 'keyLog'> & { readonly hadRows: boolean },
): void {
  const what = versions.length === 0 ? 'no live key was there' : `${versionsText(versions)} erased`
  const byUsers = tenantId === undefined ? '' : ' by any of its users'
  const after = forget ? 'forgotten, a new key may be made' : `every later use${byUsers} is ERR_KEY_SHREDDED`
  say(`Shredded ${name} at ${at.toISOString()}: ${what}; ${after}.`)
  if (tenantId !== undefined)
    printUsers(tenantId, keysOfUsers ?? null, versions.length > 0, { forget, users, keyLog })
  if (versions.length > 0) say(`Wrapped under: ${kekIds.map(kekName).join(', ')}`)
  if (!hadRows) {
    if (keyLog !== undefined) say(`Recorded in ${printableSentence(keyLog)}.`)
    return
  }
  if (erased === 'file') say(`The wrapped keys are ${erasedFrom(store)}.`)
  else say(inThisRuntime(`Pending: ${printableSentence(pending ?? 'unknown')}\n${PENDING}`))
  say(keyLog === undefined ? `${COPIES}\n${NO_LOG}` : `${COPIES}\nRecorded in ${printableSentence(keyLog)}.`)
}

function printUsers(
  tenantId: string,
  keysOfUsers: number | null,
  haveEnded: boolean,
  {
    forget,
    users,
    keyLog,
  }: {
    readonly forget: boolean
    readonly users: OfTenant['users'] | undefined
    readonly keyLog: string | undefined
  },
): void {
  if (keysOfUsers === 0 && (users?.forgotten ?? 0) === 0) return
  const keys = keysOfUsers === null ? 'The keys' : counted(keysOfUsers, 'key')
  if (haveEnded) say(`${keys} of its users ended with it.`)
  if (users === undefined) {
    if (forget && tenantId !== undefined) say(inThisRuntime(usersStay(tenantId, keyLog)))
    return
  }
  say(`Forgot ${counted(users.forgotten, 'user')} of it.`)
  if (users.kept > 0)
    say(
      `${counted(users.kept, 'user')} kept all rows, because of keys that are not under the tenant's, or rows that cannot be read: npx keystore doctor${forget ? '. Until they are forgotten the tenant gets no new key' : ''}`,
    )
}

/** Who repairs a damaged row goes on with a restore; who ends a tenant removes its users. One of the two destroys what the other is for. */
function usersStay(tenantId: string, keyLog: string | undefined): string {
  const id = shellWord(tenantId)
  const back =
    keyLog === undefined
      ? `to bring its key back from a backup, and with it all of them: npx keystore restore BACKUP --tenant ${id}`
      : 'the key log has recorded that the key ended, so that no restore brings it back'
  return (
    `The rows of its users stay, and nobody can open them. Until they are gone the tenant gets no new key. Go on with ONE of these: ${back}; ` +
    `or, to begin anew, lose them for good: npx keystore shred-tenant ${id} --forget --with-users --allow-unknown`
  )
}

const PENDING =
  'That means: no query returns the wrapped keys any more, but their bytes may still be in the files of the database until this step is done.'
const COPIES =
  'Earlier backups, logs, replicas and snapshots hold the wrapped keys until they expire, or until the master keys that wrapped them are destroyed.'
const NO_LOG =
  'Not recorded outside the database: a restored backup would bring the keys back. Use --key-log FILE to record shreds.'
