/** `keystore rotate-tenant`, `prune-tenant`, `move-tenant` and `evict-tenant`: what is done to the key of one tenant, and to none of its users. */
import { Command } from 'commander'
import { invalidArgument, isKeystoreError, MasterKeyError, printable } from '../errors.js'
import { evictTenantRows, liveTenantRows } from '../keys/tenant-rows.js'
import type { TenantMove, TenantRotation } from '../keys/tenants.js'
import { pruneTenantKey, pruneUnusedTenants } from '../lifecycle/prune-tenants.js'
import { masterKeysFromEnv, masterKeysFromFile } from '../master-keys/environment.js'
import { tryWrapping } from '../master-keys/first-wrap.js'
import type { MasterKeyring } from '../master-keys/keyring.js'
import type { MasterKey } from '../master-keys/master-key.js'
import type { KeyStore } from '../store.js'
import { type KeyRecord, tenantUserId } from '../table.js'
import { assertTenantId } from '../validate.js'
import { openForStoredKeys } from './envelope.js'
import { noSuchTenant, withExistingStore } from './existing-store.js'
import { findMasterKeys, type MasterKeyOptions, withMasterKeys } from './master-keys.js'
import {
  type ChangeOptions,
  type KeyLogOptions,
  parseDuration,
  type ReportOptions,
  recordingStore,
  type StoreOptions,
  withDryRun,
  withJson,
  withKeyLog,
  withStore,
} from './options.js'
import { counted, kekName, ownerName, printJson, printSome } from './output.js'
import { say } from './say.js'

interface RotateTenantOptions extends StoreOptions, MasterKeyOptions, ChangeOptions, KeyLogOptions {}

export function rotateTenantCommand(): Command {
  return withKeyLog(withDryRun(withMasterKeys(withStore(new Command('rotate-tenant')))))
    .description(
      'Make a new version of the key of a tenant, under the root that wraps the newest one. New keys of the users of the tenant are wrapped ' +
        'under it. No token changes.',
    )
    .argument('<tenant>', 'the tenant')
    .addHelpText('after', '\nExample:\n  npx keystore rotate-tenant acme')
    .action(rotateTenant)
}

async function rotateTenant(tenantId: string, options: RotateTenantOptions): Promise<void> {
  assertTenantId(tenantId)
  const keyring = findMasterKeys(options)
  await withExistingStore(options, async (store) => {
    const newest = (await rowsOf(store, tenantId, 'there is no key to rotate')).at(-1) as KeyRecord
    // It wraps the next version too: a keyring without `tenantRoot` keeps a tenant where it is.
    const root = givenRoot(keyring, tenantId, newest)
    const { dryRun = false } = options
    const rotation: TenantRotation = dryRun
      ? { tenantId, version: newest.version + 1, rotated: true }
      : await (await openForStoredKeys(store, keyring, options)).rotateTenantKey(tenantId)
    if (options.json) return printJson({ ...rotation, kekId: root.id, dryRun })
    const { version, rotated } = rotation
    const what = `version ${version} of the key of ${nameOf(tenantId)}`
    if (dryRun) say(`Would make ${what} under ${kekName(root.id)}.`)
    else if (!rotated) say(`Another process has just made ${what}.`)
    else say(`Made ${what} under ${kekName(root.id)}. ${USERS_FOLLOW}`)
  })
}

const USERS_FOLLOW =
  'Keys of its users stay under the version that wraps them, which is kept: `npx keystore rewrap`, with the same master keys, brings them under the new one and leaves the key of the tenant under its root.'

interface PruneTenantCommandOptions extends StoreOptions, ChangeOptions, KeyLogOptions {
  readonly unused?: boolean
  readonly olderThan?: number
}

export function pruneTenantCommand(): Command {
  return withKeyLog(withDryRun(withStore(new Command('prune-tenant'))))
    .description(
      'Remove earlier versions of the key of a tenant under which no user is any more. The newest is kept, and so is what a user needs. With --unused ' +
        'remove all versions of the keys of tenants that have no users any more.',
    )
    .argument('[tenant]', 'the tenant; with --unused and without an id all tenants')
    .option(
      '--unused',
      'the newest version too, if no user is under any of them: after users were moved out of the hierarchy of tenants',
    )
    .option(
      '--older-than <duration>',
      'only if the newest version is older, since a process that was suspended may still use an earlier one (default: 1d)',
      parseDuration,
    )
    .addHelpText('after', '\nExample:\n  npx keystore rewrap && npx keystore prune-tenant acme --dry-run')
    .action(async (tenantId: string | undefined, options: PruneTenantCommandOptions) => {
      if (options.unused === true) return pruneUnused(tenantId, options)
      const { dryRun = false, json, olderThan } = options
      if (tenantId === undefined) throw invalidArgument('Give the tenant, or --unused')
      assertTenantId(tenantId)
      await withExistingStore(options, async (store) => {
        await rowsOf(store, tenantId, 'nothing was removed')
        const { versions } = await pruneTenantKey({
          store: recordingStore(store, options),
          tenantId,
          dryRun,
          ...(olderThan === undefined ? {} : { olderThanMs: olderThan }),
        })
        if (json) return printJson({ tenantId, versions, dryRun })
        const what = `${dryRun ? 'Would remove' : 'Removed'} ${counted(versions.length, 'version')} of the key of ${nameOf(tenantId)}`
        say(`${what}${versions.length > 0 ? `: ${versions.join(', ')}` : ''}.`)
        if (versions.length === 0) say(KEPT)
      })
    })
}

async function pruneUnused(tenantId: string | undefined, options: PruneTenantCommandOptions): Promise<void> {
  const { dryRun = false, json, olderThan } = options
  if (tenantId !== undefined) assertTenantId(tenantId)
  await withExistingStore(options, async (store) => {
    if (tenantId !== undefined) await rowsOf(store, tenantId, 'nothing was removed')
    const { tenantIds } = await pruneUnusedTenants({
      store: recordingStore(store, options),
      dryRun,
      ...(tenantId === undefined ? {} : { tenantId }),
      ...(olderThan === undefined ? {} : { olderThanMs: olderThan }),
    })
    if (json) return printJson({ tenantIds, dryRun })
    say(
      `${dryRun ? 'Would remove' : 'Removed'} the keys of ${counted(tenantIds.length, 'tenant')} without users.`,
    )
    printSome(tenantIds.map(nameOf), tenantIds.length)
    if (tenantIds.length === 0) say(NONE_UNUSED)
  })
}

const NONE_UNUSED =
  'Kept are tenants that have users (`npx keystore tenants --count` counts their keys), shredded ones, and all whose newest version is younger ' +
  'than a day, or than --older-than.'

const KEPT =
  'Kept are the newest version, versions that users are under (`npx keystore rewrap` brings them along, if it is given the root of the tenant), and all versions while the newest is ' +
  'younger than a day, or than --older-than.'

interface MoveTenantOptions extends StoreOptions, MasterKeyOptions, ChangeOptions {
  readonly root?: string
  readonly rootFile?: string
}

export function moveTenantCommand(): Command {
  return withDryRun(withMasterKeys(withStore(new Command('move-tenant'))))
    .description(
      'Wrap the key of a tenant under another root: under the primary master key, or the one that --root or --root-file names. The root ' +
        'that wraps it now must be given too, as the primary or a previous master key. Changes nothing of its users. Safe to repeat.',
    )
    .argument('<tenant>', 'the tenant')
    .option(
      '--root <name>',
      'the new root: the name of a key in a key service, as API_KEY_MASTER_KEY takes it; never a key itself',
    )
    .option('--root-file <path>', 'the new root: a file with such a name, or with a key')
    .addHelpText(
      'after',
      '\nExamples:\n  npx keystore move-tenant acme --dry-run\n  npx keystore move-tenant acme --root-file keys/acme.key' +
        '\n\nTo keep the tenant working, first have `tenantRoot` give the new root in all\nprocesses, with the old one as a previous one.\nAll tenants of a previous master key: npx keystore rewrap --tenants',
    )
    .action(moveTenant)
}

async function moveTenant(tenantId: string, options: MoveTenantOptions): Promise<void> {
  assertTenantId(tenantId)
  const keyring = findMasterKeys(options)
  const root = newRoot(options) ?? keyring.primary
  await withExistingStore(options, async (store) => {
    const rows = await rowsOf(store, tenantId, 'there is nothing to move')
    const left = rows.filter(({ kekId }) => kekId !== root.id)
    for (const row of left) givenRoot(keyring, tenantId, row)
    const { dryRun = false } = options
    if (dryRun && left.length > 0) await assertWorks(root)
    const move: TenantMove = dryRun
      ? { tenantId, kekId: root.id, versions: left.map(({ version }) => version) }
      : await (await openForStoredKeys(store, keyring, {})).moveTenant(tenantId, root)
    if (options.json) return printJson({ ...move, dryRun })
    if (move.versions.length === 0)
      return say(`All versions of the key of ${nameOf(tenantId)} are under ${kekName(root.id)} already.`)
    say(
      `${dryRun ? 'Would move' : 'Moved'} ${nameOf(tenantId)} (key version ${move.versions.join(', ')}) to ${kekName(root.id)}.`,
    )
    if (!dryRun && root !== keyring.primary) say(GIVE_ROOT)
  })
}

/** The real run would find it out too, and a dry run is there to be told first. @throws ERR_MASTER_KEY and others: see `tryWrapping` */
async function assertWorks(root: MasterKey): Promise<void> {
  const failed = await tryWrapping(root)
  if (failed !== null) throw failed.error
}

const GIVE_ROOT =
  'Processes whose `tenantRoot` does not give this root for the tenant cannot open the keys of its users any more. Where it gives the old one too, take that out now.'

interface EvictTenantOptions extends StoreOptions, ReportOptions {}

export function evictTenantCommand(): Command {
  return withJson(withStore(new Command('evict-tenant')))
    .description(
      'Have every process forget the key of a tenant, and the keys of its users, within two seconds. The next use asks the root of the ' +
        'tenant again. Needs no master key and asks no root, so that it also works when the customer has taken their key away.',
    )
    .argument('<tenant>', 'the tenant')
    .addHelpText('after', '\nExample:\n  npx keystore evict-tenant acme')
    .action(async (tenantId: string, options: EvictTenantOptions) => {
      assertTenantId(tenantId)
      await withExistingStore(options, async (store) => {
        await rowsOf(store, tenantId, 'there is nothing to forget')
        const rows = await evictTenantRows(store, tenantId)
        const kekIds = [...new Set(rows.map(({ kekId }) => kekId))]
        if (options.json) return printJson({ tenantId, versions: rows.map(({ version }) => version), kekIds })
        say(
          `Within two seconds every process has forgotten the key of ${nameOf(tenantId)} and the keys of its users. ` +
            `The next use asks ${kekIds.map(kekName).join(', ')} again.`,
        )
      })
    })
}

/** The rows of a tenant, with an error that says what to do if there are none. @throws ERR_KEY_NOT_FOUND · ERR_KEY_SHREDDED */
async function rowsOf(store: KeyStore, tenantId: string, rest: string): Promise<readonly KeyRecord[]> {
  try {
    return await liveTenantRows(store, tenantId)
  } catch (error) {
    throw isKeystoreError(error) && error.code === 'ERR_KEY_NOT_FOUND' ? noSuchTenant(tenantId, rest) : error
  }
}

/** The master key that wraps a row of a tenant. @throws ERR_UNKNOWN_MASTER_KEY */
function givenRoot(keyring: MasterKeyring, tenantId: string, { version, kekId }: KeyRecord): MasterKey {
  const root = keyring.find(kekId ?? '')
  if (root !== null) return root
  throw new MasterKeyError(
    'ERR_UNKNOWN_MASTER_KEY',
    `Version ${version} of the key of ${nameOf(tenantId)} is wrapped under master key ${printable(kekId ?? 'none')}, which was not given`,
  )
}

/** @throws ERR_INVALID_ARGUMENT · ERR_MASTER_KEY */
function newRoot({ root: name, rootFile }: MoveTenantOptions): MasterKey | null {
  if (name !== undefined && rootFile !== undefined)
    throw invalidArgument('Give one of them: --root, or --root-file')
  if (rootFile !== undefined) return masterKeysFromFile(rootFile).primary
  if (name === undefined) return null
  // Base64 has no colon. Whoever reads the list of processes has read it by now.
  if (!/^[a-z][a-z0-9-]*:/.test(name))
    throw invalidArgument(
      '--root must be the name of a key in a key service. If it is a key itself, others may have seen it: put a new one into a file, and give --root-file',
    )
  const { API_KEY_MASTER_KEY_FILE: _file, API_KEY_MASTER_KEY_PREVIOUS: _previous, ...env } = process.env
  try {
    return masterKeysFromEnv({ ...env, API_KEY_MASTER_KEY: name }).primary
  } catch (error) {
    if (!isKeystoreError(error)) throw error
    throw invalidArgument(error.message.replaceAll('API_KEY_MASTER_KEY', '--root'))
  }
}

function nameOf(tenantId: string): string {
  return ownerName(tenantUserId(tenantId))
}
