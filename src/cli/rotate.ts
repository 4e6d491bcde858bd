/** `keystore rotate-user`: makes new versions of users' data keys. */
import { Command } from 'commander'
import { invalidArgument, keyShredded } from '../errors.js'
import type { Rotation } from '../keys/cache.js'
import { type RotateReport, rotateWhere } from '../lifecycle/rotate.js'
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
  withAcceptV2,
  withDryRun,
  withKeyLog,
  withStore,
} from './options.js'
import { counted, printableId, printJson, setExitCode, thousands } from './output.js'
import { printFailures } from './row-problems.js'
import { say } from './say.js'

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
    if (dryRun) say(`Would make version ${version} of the key of ${printableId(userId)}.`)
    else if (!rotated)
      say(`Another process has just made version ${version} of the key of ${printableId(userId)}.`)
    else say(`Made version ${version} of the key of ${printableId(userId)}. ${OLD_TOKENS}`)
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
  say(
    `${dryRun ? 'Would rotate' : 'Rotated'} the keys of ${counted(rotated, 'user')}; ${others}, ${thousands(failedCount)} failed.`,
  )
  printFailures(failed, failedCount)
  if (rotated > 0 && !dryRun) say(OLD_TOKENS)
}
