/** `keystore rotate-user` and `keystore prune`: make new versions of users' data keys, and remove old ones. */
import { Command } from 'commander'
import { invalidArgument, keyShredded } from '../errors.js'
import type { Rotation } from '../keys/cache.js'
import { pruneRetired, type RotateReport, rotateWhere } from '../lifecycle/rotate.js'
import type { KeyStore } from '../store.js'
import { assertUserId } from '../validate.js'
import { inThisRuntime } from './command-line.js'
import { openForStoredKeys } from './envelope.js'
import { noSuchUser, withExistingStore } from './existing-store.js'
import { runLongCommand } from './long-command.js'
import { findMasterKeys, type MasterKeyOptions, withMasterKeys } from './master-keys.js'
import {
  type AcceptOptions,
  type ChangeOptions,
  type KeyLogOptions,
  parseDuration,
  recordingStore,
  type StoreOptions,
  wholeNumber,
  withAcceptV2,
  withDryRun,
  withKeyLog,
  withStore,
} from './options.js'
import { counted, printableId, printJson, setExitCode, thousands } from './output.js'
import { printFailures } from './rewrap.js'

interface RotateCommandOptions
  extends StoreOptions,
    MasterKeyOptions,
    AcceptOptions,
    ChangeOptions,
    KeyLogOptions {
  readonly olderThan?: number
}

export function rotateUserCommand(): Command {
  return withKeyLog(withDryRun(withAcceptV2(withMasterKeys(withStore(new Command('rotate-user'))))))
    .description(
      'Make a new version of the key of one user, or of all users whose newest version is older than an age. New writes use it. Tokens of ' +
        'old versions still decrypt, until you re-encrypt them and prune the old versions.',
    )
    .argument('[user]', 'the user')
    .option(
      '--older-than <duration>',
      'rotate all users whose newest version is older: 90d, 12h, 30m, 2w, or 0 for all users',
      parseDuration,
    )
    .addHelpText(
      'after',
      '\nExamples:\n  npx keystore rotate-user alice\n  npx keystore rotate-user --older-than 365d --dry-run',
    )
    .action((userId: string | undefined, options: RotateCommandOptions) => {
      const { olderThan } = options
      if ((userId === undefined) === (olderThan === undefined))
        throw invalidArgument('Give exactly one of them: a user, or --older-than')
      return olderThan === undefined ? rotateOne(userId ?? '', options) : rotateAll(olderThan, options)
    })
}

async function rotateOne(userId: string, options: RotateCommandOptions): Promise<void> {
  const masterKeys = findMasterKeys(options)
  await withExistingStore(options, async (store) => {
    const envelope = await openForStoredKeys(store, masterKeys, options)
    const { dryRun = false } = options
    const rotation = dryRun ? await nextVersion(store, userId) : await envelope.rotateUserKey(userId)
    if (options.json) return printJson({ ...rotation, dryRun })
    const { version, rotated } = rotation
    if (dryRun) console.log(`Would make version ${version} of the key of ${printableId(userId)}.`)
    else if (!rotated)
      console.log(`Another process has just made version ${version} of the key of ${printableId(userId)}.`)
    else console.log(`Made version ${version} of the key of ${printableId(userId)}. ${OLD_TOKENS}`)
  })
}

/** The version that a rotation would make now. Another process may make it first. */
async function nextVersion(store: KeyStore, userId: string): Promise<Rotation> {
  assertUserId(userId)
  const active = (await store.getActive([userId])).get(userId)
  if (active === undefined) throw noSuchUser(userId, 'there is no key to rotate')
  if (active.shreddedAt !== null) throw keyShredded(userId)
  return { userId, version: active.version + 1, rotated: true }
}

const OLD_TOKENS = inThisRuntime(
  'Tokens of earlier versions still decrypt. Re-encrypt them (`npx keystore reencrypt`, or decrypt and encrypt again), then prune the old versions.',
)

async function rotateAll(olderThanMs: number, options: RotateCommandOptions): Promise<void> {
  const masterKeys = findMasterKeys(options)
  await withExistingStore(options, (store) =>
    runLongCommand(
      options,
      (controls) =>
        rotateWhere({
          ...controls,
          store: recordingStore(store, options),
          masterKeys,
          olderThanMs,
          dryRun: options.dryRun ?? false,
        }),
      (report) => {
        if (options.json) printJson(report)
        else printRotation(report)
        setExitCode(report.failedCount === 0)
      },
    ),
  )
}

function printRotation({
  dryRun,
  rotated,
  young,
  skipped,
  shredded,
  failed,
  failedCount,
}: RotateReport): void {
  const others = `${thousands(young)} are not that old, ${thousands(shredded)} shredded, ${thousands(skipped)} rotated by others meanwhile`
  console.log(
    `${dryRun ? 'Would rotate' : 'Rotated'} the keys of ${counted(rotated, 'user')}; ${others}, ${thousands(failedCount)} failed.`,
  )
  printFailures(failed, failedCount)
  if (rotated > 0 && !dryRun) console.log(OLD_TOKENS)
}

interface PruneCommandOptions extends StoreOptions, ChangeOptions, KeyLogOptions {
  readonly pool?: boolean
  readonly beforeVersion: number
  readonly tokensReencrypted: true
  readonly includeFirst?: boolean
}

export function pruneCommand(): Command {
  return withKeyLog(withDryRun(withStore(new Command('prune'))))
    .description(
      'Remove old versions of the key of a user, or of the pool. TOKENS UNDER THEM CAN NEVER BE DECRYPTED AGAIN.',
    )
    .argument('[user]', 'the user')
    .option('--pool', 'instead of a user: the key of the pool')
    .requiredOption(
      '--before-version <n>',
      'remove versions below this one; the highest is always kept',
      wholeNumber,
    )
    .requiredOption('--tokens-reencrypted', 'confirm that no token of these versions is left')
    .option(
      '--include-first',
      'remove version 1 too, which all v2 tokens of the user need; then bring fingerprints along: reencrypt --schema',
    )
    .addHelpText(
      'after',
      '\nExample:\n  npx keystore prune alice --before-version 3 --tokens-reencrypted --dry-run',
    )
    .action((user: string | undefined, options: PruneCommandOptions) =>
      withExistingStore(options, async (store) => {
        const { beforeVersion, tokensReencrypted, includeFirst = false, dryRun = false, json } = options
        const userId = prunedOwner(user, options)
        if (!(await store.getAll([userId])).has(userId)) throw noSuchUser(userId, 'nothing was removed')
        const choice = { beforeVersion, tokensReencrypted, includeFirst, dryRun }
        const { versions } = await pruneRetired({ ...choice, store: recordingStore(store, options), userId })
        if (json) return printJson({ userId, versions, dryRun })
        const what = `${dryRun ? 'Would remove' : 'Removed'} ${counted(versions.length, 'version')}`
        const whose = userId === POOL ? 'the pool' : printableId(userId)
        console.log(`${what} of the key of ${whose}${versions.length > 0 ? `: ${versions.join(', ')}` : ''}.`)
        if (versions.length === 0)
          console.log(
            'Kept are versions from --before-version on, the highest version, and without --include-first version 1.',
          )
      }),
    )
}

/** The user id of the pool's key. */
const POOL = ''

/** @throws ERR_INVALID_ARGUMENT */
function prunedOwner(user: string | undefined, { pool = false }: PruneCommandOptions): string {
  if ((user !== undefined) === pool) throw invalidArgument('Give exactly one of them: a user, or --pool')
  if (user === undefined) return POOL
  assertUserId(user)
  return user
}
