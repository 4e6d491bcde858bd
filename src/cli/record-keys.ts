/** What `keystore doctor` does about keys that a store has and its key log lacks. */
import { type RecordKeysReport, recordKeys } from '../key-log/record-keys.js'
import { KeyLogWriter } from '../key-log/writer.js'
import type { KeyStore } from '../store.js'
import type { LongWorkControls } from './long-command.js'
import type { KeyLogOptions } from './options.js'
import { counted } from './output.js'
import { say } from './say.js'

interface RecordKeysCommandOptions extends KeyLogOptions {
  readonly recordKeys?: boolean
}

export interface RecordingReport {
  /** What was recorded in the key log. */
  readonly recorded?: RecordKeysReport
  /** What the key log lacks, unless it was recorded. */
  readonly unrecorded?: Pick<RecordKeysReport, 'keys' | 'shredded'>
}

/** An application that gets a key log has no file yet. */
export async function makeKeyLog({ keyLog, recordKeys: isAsked }: RecordKeysCommandOptions): Promise<void> {
  if (isAsked && keyLog !== undefined) await new KeyLogWriter(keyLog).prepare('no key was recorded')
}

/** Records what the key log lacks if it is asked for, and else counts it. */
export async function recordOrCount(
  store: KeyStore,
  { keyLog, recordKeys: isAsked = false }: RecordKeysCommandOptions,
  { signal }: LongWorkControls,
): Promise<RecordingReport> {
  if (keyLog === undefined) return {}
  const report = await recordKeys({ store, keyLog, signal, dryRun: !isAsked })
  if (isAsked) return { recorded: report }
  const { complete, keys, shredded } = report
  return complete && keys + shredded > 0 ? { unrecorded: { keys, shredded } } : {}
}

export function printRecording(
  { recorded, unrecorded }: RecordingReport,
  { keyLog = '', recordKeys: isAsked }: RecordKeysCommandOptions,
): void {
  if (recorded !== undefined) {
    say(`Recorded in ${keyLog}: ${what(recorded)}.`)
    if (recorded.unreadable.count > 0)
      say(`Not recorded: ${counted(recorded.unreadable.count, 'row')} that cannot be read; see unreadable.`)
  } else if (isAsked) say('Nothing was recorded in the key log: see schemaVersion, or keyLost.')
  if (unrecorded !== undefined)
    say(
      `The key log lacks ${what(unrecorded)} of the store: nobody would notice if an older copy lost these keys, or brought these users ` +
        'back. --record-keys records them.',
    )
}

function what({ keys, shredded }: Pick<RecordKeysReport, 'keys' | 'shredded'>): string {
  return `${counted(keys, 'live key')}, ${counted(shredded, 'erasure')}`
}
