/** Where commands find master keys, and how they make one. No key is ever in an argument. */
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
      'a file with an earlier master key, beside $API_KEY_MASTER_KEY_PREVIOUS; may be repeated',
    ).argParser((path: string, paths: readonly string[] = []) => [...paths, path]),
  )
}

/** The file named on the command line, else the environment, else the file that `init` makes, if it is there. */
export function findMasterKeys({ masterKeyFile, previousKeyFile }: MasterKeyOptions): MasterKeyring {
  const byDefault =
    !isGivenByEnvironment() && existsSync(DEFAULT_MASTER_KEY_FILE) ? DEFAULT_MASTER_KEY_FILE : undefined
  return keyringOf(masterKeyFile ?? byDefault, previousKeyFile)
}

/** The same, but makes the file if there is no master key at all. @returns also a line that says where it is */
export function findOrMakeMasterKeys(options: MasterKeyOptions): { masterKeys: MasterKeyring; said: string } {
  const { masterKeyFile: path = DEFAULT_MASTER_KEY_FILE, previousKeyFile } = options
  if (options.masterKeyFile === undefined && isGivenByEnvironment()) {
    return { masterKeys: keyringOf(undefined, previousKeyFile), said: 'Master key: from the environment' }
  }
  const made = makeMasterKeyFile(path)
  const said = made
    ? `Master key: made ${path} (mode 0600). Back it up: without it nothing can be decrypted`
    : `Master key: ${path} (reused)`
  return { masterKeys: keyringOf(path, previousKeyFile), said }
}

/** @param file takes the place of the environment's primary; previous keys of the environment count in any case */
function keyringOf(file: string | undefined, previousFiles: readonly string[] = []): MasterKeyring {
  const { API_KEY_MASTER_KEY_PREVIOUS } = process.env
  const { primary, previous } = masterKeysFromEnv(
    file === undefined ? process.env : { API_KEY_MASTER_KEY_FILE: file, API_KEY_MASTER_KEY_PREVIOUS },
  )
  const more = previousFiles.map((path) => masterKeysFromFile(path).primary)
  return masterKeyring({ primary, previous: [...previous, ...more] })
}

/** @returns false if the file is there already; it is never overwritten */
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
    // Keys will be wrapped under it in a moment: it must outlive a power cut as they do.
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
