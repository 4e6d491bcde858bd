/** Where commands find master keys, and how they make one. A key is never a command line argument. */
import { closeSync, existsSync, fsyncSync, linkSync, openSync, rmSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { type Command, Option } from 'commander'
import { MasterKeyError } from '../errors.js'
import { assertFilePath, makeFolders } from '../folders.js'
import { DEFAULT_MASTER_KEY_FILE, masterKeysFromEnv, masterKeysFromFile } from '../master-keys/environment.js'
import { assertKeyPath } from '../master-keys/key-file.js'
import { type MasterKeyring, masterKeyring } from '../master-keys/keyring.js'
import { generateMasterKey } from '../master-keys/local.js'
import { syncFolder } from '../sync-folder.js'
import { assertCanBeMade } from './writable-folder.js'

export interface MasterKeyOptions {
  readonly masterKeyFile?: string
  readonly previousKeyFile?: readonly string[]
}

function withMasterKey(command: Command): Command {
  return command.option(
    '--master-key-file <path>',
    `the file with the master key (default: $API_KEY_MASTER_KEY, $API_KEY_MASTER_KEY_FILE or ${DEFAULT_MASTER_KEY_FILE})`,
  )
}

export function withMasterKeys(command: Command): Command {
  return withMasterKey(command).addOption(
    new Option(
      '--previous-key-file <path>',
      'a file with an earlier master key, besides $API_KEY_MASTER_KEY_PREVIOUS; may be repeated',
    ).argParser((path: string, paths: readonly string[] = []) => [...paths, path]),
  )
}

/** For a command that opens no key: who types the options of `doctor` there, too, means nothing wrong. */
export function withIgnoredMasterKeys(command: Command): Command {
  const notNeeded = 'not needed: this command opens no key'
  return command
    .addOption(new Option('--master-key-file <path>', notNeeded).hideHelp())
    .addOption(new Option('--previous-key-file <path>', notNeeded).hideHelp())
}

/** Loads the master keys: from the file named on the command line, else from the environment, else from the file that `init` makes. */
export function findMasterKeys({ masterKeyFile, previousKeyFile }: MasterKeyOptions): MasterKeyring {
  return loadKeyring(masterKeyFile ?? fileByDefault(), previousKeyFile)
}

/** The file that `init` makes, if it is there and the environment gives no other key. */
function fileByDefault(): string | undefined {
  return !isGivenByEnvironment() && existsSync(DEFAULT_MASTER_KEY_FILE) ? DEFAULT_MASTER_KEY_FILE : undefined
}

/** The files from which {@link findMasterKeys} takes keys. */
export function masterKeyFiles({ masterKeyFile, previousKeyFile = [] }: MasterKeyOptions): string[] {
  const { API_KEY_MASTER_KEY_FILE = '' } = process.env
  const primary = masterKeyFile ?? fileByDefault() ?? API_KEY_MASTER_KEY_FILE
  return [primary, ...previousKeyFile].filter((path) => path.trim() !== '')
}

/** Master keys that were found or made. */
export interface FoundMasterKeys {
  readonly masterKeys: MasterKeyring
  /** A line that says where the key is. */
  readonly said: string
  /** The primary's file; null if the environment gives the key. */
  readonly file: string | null
}

/** Like {@link findMasterKeys}, but returns null if there is no key, or not yet the file that is named for it. */
export function masterKeysOrNull(options: MasterKeyOptions): FoundMasterKeys | null {
  const { masterKeyFile, previousKeyFile } = options
  const file = newKeyFile(options)
  if (file !== null) assertNewKeyFile(file)
  if (masterKeyFile === undefined && isGivenByEnvironment() && (file === null || existsSync(file))) {
    const said = 'Master key: from the environment'
    return { masterKeys: loadKeyring(undefined, previousKeyFile), said, file: null }
  }
  if (file === null || !existsSync(file)) return null
  return { masterKeys: loadKeyring(file, previousKeyFile), said: `Master key: ${file} (reused)`, file }
}

/** @throws if {@link makeMasterKeys} could not make its file */
export function assertKeyCanBeMade(options: MasterKeyOptions): void {
  assertCanBeMade(
    newKeyFile(options) ?? DEFAULT_MASTER_KEY_FILE,
    '--master-key-file or API_KEY_MASTER_KEY_FILE',
  )
}

/** Makes the file that {@link masterKeysOrNull} lacks. */
export function makeMasterKeys(options: MasterKeyOptions): FoundMasterKeys {
  const file = newKeyFile(options) ?? DEFAULT_MASTER_KEY_FILE
  const said = makeMasterKeyFile(file)
    ? `Master key: made ${file} (mode 0600). Back it up: without it nothing can be decrypted`
    : `Master key: ${file} (reused)`
  return { masterKeys: loadKeyring(file, options.previousKeyFile), said, file }
}

/** The file that is named for the master key, and by what. Null if none is named, or the environment holds the key. */
export function namedKeyFile({ masterKeyFile }: MasterKeyOptions): { path: string; by: string } | null {
  const { API_KEY_MASTER_KEY = '', API_KEY_MASTER_KEY_FILE = '' } = process.env
  if (masterKeyFile !== undefined) return { path: masterKeyFile, by: '--master-key-file' }
  if (API_KEY_MASTER_KEY.trim() !== '' || API_KEY_MASTER_KEY_FILE.trim() === '') return null
  return { path: API_KEY_MASTER_KEY_FILE, by: 'API_KEY_MASTER_KEY_FILE' }
}

/** Where the master key is, or is made if it is not there. Null if $API_KEY_MASTER_KEY holds it. */
function newKeyFile(options: MasterKeyOptions): string | null {
  const named = namedKeyFile(options)
  if (named !== null) return named.path
  return isGivenByEnvironment() ? null : DEFAULT_MASTER_KEY_FILE
}

/** @param file the primary's file; undefined: the primary of the environment. Previous keys of the environment count in both cases */
function loadKeyring(file: string | undefined, previousFiles: readonly string[] = []): MasterKeyring {
  // All variables: what is in the file may name a key service, which needs others.
  const named = file === undefined ? {} : { API_KEY_MASTER_KEY: undefined, API_KEY_MASTER_KEY_FILE: file }
  const { primary, previous } = masterKeysFromEnv({ ...process.env, ...named })
  const more = previousFiles.map((path) => masterKeysFromFile(path).primary)
  return masterKeyring({ primary, previous: [...previous, ...more] })
}

/**
 * Makes a master key in a new file. It has its name only when it is complete: whoever makes the same file meanwhile never reads half a key.
 *
 * @returns false if the file exists: it is never overwritten
 */
export function makeMasterKeyFile(path: string): boolean {
  assertNewKeyFile(path)
  makeFolders(dirname(path))
  if (existsSync(path)) return false
  const complete = `${path}.${process.pid}-${performance.now()}.new`
  try {
    writeMasterKey(complete)
    // Unlike a rename it does not replace a file.
    linkSync(complete, path)
    syncFolder(dirname(path))
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : ''
    if (code === 'EEXIST') return false
    if (!NO_LINKS.has(code)) throw error
    return claimMasterKeyFile(path)
  } finally {
    rmSync(complete, { force: true })
  }
  return true
}

/** The name of a file that is made, or found by `init`, is printed, and written into .gitignore. @throws ERR_MASTER_KEY · ERR_INVALID_ARGUMENT */
function assertNewKeyFile(path: string): void {
  assertKeyPath(path)
  assertFilePath(path, 'the master key', 'master.key')
}

/** What a file system without hard links answers: FAT, and some that are mounted over a network. */
const NO_LINKS: ReadonlySet<string> = new Set(['EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EMLINK'])

/** For such a file system. Whoever reads the file at this moment finds it incomplete, and is told so. */
function claimMasterKeyFile(path: string): boolean {
  try {
    writeMasterKey(path)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false
    throw error
  }
  syncFolder(dirname(path))
  return true
}

/** Writes a new master key into a new file, durably: it must survive a power cut, as the keys will that are wrapped under it next. */
function writeMasterKey(path: string): void {
  const file = openSync(path, 'wx', 0o600)
  try {
    writeSync(file, `${generateMasterKey()}\n`)
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
}

function isGivenByEnvironment(): boolean {
  const { API_KEY_MASTER_KEY = '', API_KEY_MASTER_KEY_FILE = '' } = process.env
  return API_KEY_MASTER_KEY.trim() !== '' || API_KEY_MASTER_KEY_FILE.trim() !== ''
}

/** A file was named for the master key of a store that has keys, and there is none. */
export class MissingKeyFileError extends MasterKeyError {
  constructor(message: string) {
    super('ERR_UNKNOWN_MASTER_KEY', message)
  }
}
