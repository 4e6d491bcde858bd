/** `keystore prune`: removes old versions of users' data keys. */
import { Command, InvalidArgumentError } from 'commander'
import { invalidArgument } from '../errors.js'
import { type PruneReport, pruneRetired, pruneWhere } from '../lifecycle/prune.js'
import { assertUserId } from '../validate.js'
import { noSuchUser, withExistingStore } from './existing-store.js'
import { runLongCommand } from './long-command.js'
import {
  type ChangeOptions,
  type KeyLogOptions,
  recordingStore,
  type StoreOptions,
  wholeNumber,
  withDryRun,
  withKeyLog,
  withStore,
} from './options.js'
import { counted, ownerName, printableId, printJson, printSome, setExitCode } from './output.js'
import { printFailures } from './row-problems.js'
import { say } from './say.js'

interface PruneCommandOptions extends StoreOptions, ChangeOptions, KeyLogOptions {
  readonly pool?: boolean
  readonly all?: boolean
  readonly beforeVersion?: number
  readonly madeBefore?: Date
  readonly tokensReencrypted?: true
  readonly includeFirst?: boolean
}

export function pruneCommand(): Command {
  return withKeyLog(withDryRun(withStore(new Command('prune'))))
    .description(
      'Remove old versions of the key of a user, of the pool, or of all of them. TOKENS UNDER THEM CAN NEVER BE DECRYPTED AGAIN. The highest version of ' +
        'each is always kept.',
    )
    .argument('[user]', 'the user')
    .option('--pool', 'instead of a user: the key of the pool')
    .option('--all', 'instead of a user: all users and the pool; with --made-before')
    .option('--before-version <n>', 'remove versions below this one', wholeNumber)
    .option(
      '--made-before <time>',
      'remove versions that were made before this time, such as that of a rotation: 2026-11-27T16:00:00Z',
      parseTime,
    )
    .option(
      '--tokens-reencrypted',
      'confirm that no token of these versions is left; needed unless --dry-run is given',
    )
    .option(
      '--include-first',
      'remove version 1 too, which all v2 tokens of the user need; then bring fingerprints along: reencrypt --schema',
    )
    .addHelpText(
      'after',
      '\nExamples:\n  npx keystore prune alice --before-version 3 --dry-run\n' +
        '  npx keystore prune --all --made-before 2026-11-27T16:00:00Z \\\n    --tokens-reencrypted --include-first',
    )
    .action((user: string | undefined, options: PruneCommandOptions) => {
      const { pool = false, all = false, beforeVersion, madeBefore } = options
      if ([user !== undefined, pool, all].filter(Boolean).length !== 1)
        throw invalidArgument('Give exactly one of them: a user, --pool, or --all')
      if ((beforeVersion === undefined) === (madeBefore === undefined))
        throw invalidArgument('Give exactly one of them: --before-version, or --made-before')
      if (!options.dryRun && !options.tokensReencrypted)
        throw invalidArgument(
          'Tokens under what is removed are lost. Once none is left, confirm it with --tokens-reencrypted; --dry-run says what would be removed, and needs no confirmation',
        )
      if (!all) return pruneOne(user ?? POOL, options)
      // Users have different versions at any time.
      if (madeBefore === undefined)
        throw invalidArgument('--all takes --made-before, and no --before-version')
      return pruneAll(madeBefore, options)
    })
}

/** The user id of the pool's key. */
const POOL = ''

/** What the library asks for in a dry run too. The command has asked for it where something is removed. */
const CONFIRMED = { tokensReencrypted: true } as const

async function pruneOne(userId: string, options: PruneCommandOptions): Promise<void> {
  if (userId !== POOL) assertUserId(userId)
  const { beforeVersion, madeBefore, includeFirst = false, dryRun = false, json } = options
  await withExistingStore(options, async (store) => {
    if (!(await store.getAll([userId])).has(userId)) throw noSuchUser(userId, 'nothing was removed')
    const choice = { beforeVersion, madeBefore, ...CONFIRMED, includeFirst, dryRun }
    const { versions } = await pruneRetired({ ...choice, store: recordingStore(store, options), userId })
    if (json) return printJson({ userId, versions, dryRun })
    const what = `${dryRun ? 'Would remove' : 'Removed'} ${counted(versions.length, 'version')}`
    const whose = userId === POOL ? 'the pool' : printableId(userId)
    say(`${what} of the key of ${whose}${versions.length > 0 ? `: ${versions.join(', ')}` : ''}.`)
    if (versions.length === 0)
      say(
        'Kept are versions from --before-version or --made-before on, the highest version, and without --include-first version 1.',
      )
  })
}

async function pruneAll(madeBefore: Date, options: PruneCommandOptions): Promise<void> {
  const { includeFirst = false, dryRun = false } = options
  await withExistingStore(options, (store) =>
    runLongCommand(
      options,
      (controls) =>
        pruneWhere({
          ...controls,
          store: recordingStore(store, options),
          madeBefore,
          ...CONFIRMED,
          includeFirst,
          dryRun,
        }),
      (report) => {
        if (options.json) printJson(report)
        else printPrune(report)
        setExitCode(report.failedCount === 0 && report.notRotatedCount === 0)
      },
    ),
  )
}

function printPrune({
  dryRun,
  users,
  removed,
  notRotated,
  notRotatedCount,
  failed,
  failedCount,
}: PruneReport): void {
  say(
    `${dryRun ? 'Would remove' : 'Removed'} ${counted(removed, 'version')} of the keys of ${counted(users, 'user')}.`,
  )
  if (notRotatedCount > 0) {
    say(
      `${counted(notRotatedCount, 'user')} ${notRotatedCount === 1 ? 'has' : 'have'} no version made since, so that the newest was kept: npx keystore rotate-user ` +
        'makes one, and reencrypt brings the tokens along.',
    )
    printSome(notRotated.map(ownerName), notRotatedCount)
  }
  printFailures(failed, failedCount)
}

/** @returns a moment; a time without a zone would mean another one on each machine */
function parseTime(text: string): Date {
  const time = /T.*(Z|[+-]\d\d:?\d\d)$/i.test(text) ? new Date(text) : new Date(Number.NaN)
  if (Number.isNaN(time.getTime()))
    throw new InvalidArgumentError('It must be a time with its zone, as `date -u +%FT%TZ` prints it.')
  return time
}
