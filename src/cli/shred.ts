/** `keystore shred-user`: erases a user's keys. Needs no master key. */
import { createInterface } from 'node:readline'
import { Command } from 'commander'
import { invalidArgument } from '../errors.js'
import { type ShredReceipt, shredIn } from '../shred.js'
import { assertUserId } from '../validate.js'
import {
  type ChangeOptions,
  type StoreOptions,
  withDryRun,
  withExistingStore,
  withShredLog,
  withStore,
} from './options.js'
import { kekName, printableId, printJson } from './output.js'
import { printableSentence } from './printable.js'

interface ShredCommandOptions extends StoreOptions, ChangeOptions {
  readonly forget?: boolean
  readonly yes?: boolean
  readonly shredLog?: string
}

export function shredUserCommand(): Command {
  return withShredLog(
    withDryRun(withStore(new Command('shred-user'))),
    'a file outside the database and its backups: the receipt is appended to it first, and restore, copy and doctor apply it again',
  )
    .description(
      'Erase all versions of the key of a user: nothing encrypted under them can ever be decrypted again. Asks you to type the id.',
    )
    .argument('<user>', 'the user')
    .option(
      '--forget',
      'remove the rows too, so that the user can get a new key later; without it every later use is an error',
    )
    .option('--yes', 'do not ask')
    .addHelpText(
      'after',
      '\nExamples:\n  keystore shred-user alice --shred-log shredded.jsonl\n  keystore shred-user --yes -- --an-id-like-an-option',
    )
    .action(shredUser)
}

async function shredUser(userId: string, options: ShredCommandOptions): Promise<void> {
  assertUserId(userId)
  const { forget = false, yes = false, shredLog, dryRun = false, json = false } = options
  if (!dryRun && !yes && !process.stdin.isTTY)
    throw invalidArgument('There is no terminal to ask on: give --yes to shred without being asked')
  await withExistingStore(options, async (store) => {
    if (dryRun || !yes) {
      const rows = (await store.getAll([userId])).get(userId) ?? []
      const versions = rows.filter(({ shreddedAt }) => shreddedAt === null).map(({ version }) => version)
      if (dryRun && json) return printJson({ userId, versions, forget, dryRun })
      const found = `${printableId(userId)} has ${versions.length === 0 ? 'no live key' : versionsText(versions)}.`
      if (dryRun) return console.log(`${found} Would ${forget ? 'erase and forget' : 'erase'} what there is.`)
      process.stderr.write(`${found} What is encrypted under it can never be decrypted again.\n`)
      if (!(await isTyped(userId)))
        throw new Error('What was typed is not the id of the user: nothing was shredded')
    }
    const receipt = await shredIn(store, userId, { forget, shredLog })
    if (json) printJson(receipt)
    else printReceipt(receipt, shredLog)
  })
}

/** Asks on standard error, so that standard output holds the receipt alone. False if the input ends without a line. */
async function isTyped(userId: string): Promise<boolean> {
  process.stderr.write(`To shred ${printableId(userId)} type the id: `)
  for await (const line of createInterface({ input: process.stdin })) return line === userId
  return false
}

function versionsText(versions: readonly number[]): string {
  return `${versions.length === 1 ? 'version' : 'versions'} ${versions.join(', ')}`
}

function printReceipt(
  { userId, versions, kekIds, at, erased, pending, forget }: ShredReceipt,
  shredLog?: string,
): void {
  const what = versions.length === 0 ? 'no live key was there' : `${versionsText(versions)} erased`
  const after = forget ? 'forgotten, a new key may be made' : 'every later use is ERR_KEY_SHREDDED'
  console.log(`Shredded ${printableId(userId)} at ${at.toISOString()}: ${what}; ${after}.`)
  if (versions.length > 0) console.log(`Wrapped under: ${kekIds.map(kekName).join(', ')}`)
  if (erased === 'file') console.log('The wrapped keys are in no file of the database any more.')
  else console.log(`Pending: ${printableSentence(pending ?? 'unknown')}\n${PENDING}`)
  console.log(
    shredLog === undefined
      ? `${COPIES}\n${NO_LOG}`
      : `${COPIES}\nRecorded in ${printableSentence(shredLog)}.`,
  )
}

const PENDING =
  'That means: no query returns the wrapped keys any more, but their bytes may still be in the files of the database until this step is done.'
const COPIES =
  'Earlier backups, logs, replicas and snapshots hold the wrapped keys until they expire, or until the master keys that wrapped them are destroyed.'
const NO_LOG =
  'Not recorded outside the database: a restored backup would bring the keys back. Use --shred-log FILE to record shreds.'
