/** Where commands find master keys, and how they make one. A key is never a command line argument. */
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { type Command, Option } from 'commander'
import { masterKeysFromEnv, masterKeysFromFile } from '../master-keys/environment.js'
import { type MasterKeyring, masterKeyring } from '../master-keys/keyring.js'
import { generateMasterKey } from '../master-keys/local.js'
import { syncFolder } from '../sync-folder.js'

const DEFAULT_MASTER_KEY_FILE = 'data/master.key'

export interface MasterKeyOptions {
  readonly masterKeyFile?: string
  readonly previousKeyFile?: readonly string[]
}

export function withMasterKey(command: Command): Command {
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

/** Loads the master keys: from the file named on the command line, else from the environment, else from the file that `init` makes. */
export function findMasterKeys({ masterKeyFile, previousKeyFile }: MasterKeyOptions): MasterKeyring {
  const byDefault =
    !isGivenByEnvironment() && existsSync(DEFAULT_MASTER_KEY_FILE) ? DEFAULT_MASTER_KEY_FILE : undefined
  return loadKeyring(masterKeyFile ?? byDefault, previousKeyFile)
}

/** Like {@link findMasterKeys}, but makes the file if there is no master key. @returns also `said`: a line that says where the key is */
export function findOrMakeMasterKeys(options: MasterKeyOptions): { masterKeys: MasterKeyring; said: string } {
  const { masterKeyFile: path = DEFAULT_MASTER_KEY_FILE, previousKeyFile } = options
  if (options.masterKeyFile === undefined && isGivenByEnvironment()) {
    return { masterKeys: loadKeyring(undefined, previousKeyFile), said: 'Master key: from the environment' }
  }
  const made = makeMasterKeyFile(path)
  const said = made
    ? `Master key: made ${path} (mode 0600). Back it up: without it nothing can be decrypted`
    : `Master key: ${path} (reused)`
  return { masterKeys: loadKeyring(path, previousKeyFile), said }
}

/** @param file the primary's file; undefined: the primary of the environment. Previous keys of the environment count in both cases */
function loadKeyring(file: string | undefined, previousFiles: readonly string[] = []): MasterKeyring {
  const { API_KEY_MASTER_KEY_PREVIOUS } = process.env
  const { primary, previous } = masterKeysFromEnv(
    file === undefined ? process.env : { API_KEY_MASTER_KEY_FILE: file, API_KEY_MASTER_KEY_PREVIOUS },
  )
  const more = previousFiles.map((path) => masterKeysFromFile(path).primary)
  return masterKeyring({ primary, previous: [...previous, ...more] })
}

/** Makes a master key in a new file. @returns false if the file exists: it is never overwritten */
export function makeMasterKeyFile(path: string): boolean {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 })
  let file: number
  try {
    file = openSync(path, 'wx', 0o600)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false
    throw error
  }
  try {
    writeSync(file, `${generateMasterKey()}\n`)
    // It must survive a power cut, as the keys will that are wrapped under it next.
    fsyncSync(file)
    syncFolder(dirname(path))
  } finally {
    closeSync(file)
  }
  return true
}

function isGivenByEnvironment(): boolean {
  const { API_KEY_MASTER_KEY = '', API_KEY_MASTER_KEY_FILE = '' } = process.env
  return API_KEY_MASTER_KEY.trim() !== '' || API_KEY_MASTER_KEY_FILE.trim() !== ''
}
