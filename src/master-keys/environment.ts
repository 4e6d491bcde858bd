/** Master keys from the environment and from files. */
import { closeSync, existsSync, fstatSync, openSync, readFileSync, statSync } from 'node:fs'
import { isAbsolute, resolve } from 'node:path'
import { invalidArgument, MasterKeyError } from '../errors.js'
import { kindOf } from '../validate.js'
import { assertKeyPath, shownKeyPath } from './key-file.js'
import { type MasterKeyring, masterKeyring } from './keyring.js'
import { decodeKey, HEXADECIMAL, isHexadecimal, isLocal, isOneByteRepeated, localMasterKey } from './local.js'
import type { MasterKey } from './master-key.js'
import { isServiceName, serviceKey } from './service-keys.js'
import { type Environment, variable } from './variables.js'

/** Where `npx keystore init` makes a master key, and where commands look for it if the environment gives none. */
export const DEFAULT_MASTER_KEY_FILE = 'data/master.key'

const HOW_TO_MAKE_ONE = 'make one with `npx keystore init`, or with `openssl rand -base64 32`'

/**
 * The keyring of `API_KEY_MASTER_KEY` or `API_KEY_MASTER_KEY_FILE` (the path of a file with it), and of `API_KEY_MASTER_KEY_PREVIOUS`
 * (earlier ones, separated by white space; they only unwrap).
 *
 * Each is base64 or base64url of exactly 32 bytes, or names a key in a key service: `aws-kms:<ARN>`, `azure-kv:https://…/keys/<name>/<version>`,
 * `gcp-kms:projects/…/cryptoKeys/<key>`, `vault:https://<host>/transit/keys/<key>`, `pkcs11:token=…;object=…` (docs/MASTER-KEYS.md). The service is asked, and its SDK
 * loaded, at the first call.
 *
 * @throws MasterKeyError `ERR_MASTER_KEY` if unset, unusable, 32 equal bytes, or given in both ways; warns of 32
 *   printable characters, which are a passphrase and no key
 * @example
 * masterKeysFromEnv({ API_KEY_MASTER_KEY: 'gcp-kms:projects/example/locations/europe-west3/keyRings/apps/cryptoKeys/keystore' })
 */
export function masterKeysFromEnv(env: Environment = process.env): MasterKeyring {
  const text = variable(env, 'API_KEY_MASTER_KEY')
  const path = variable(env, 'API_KEY_MASTER_KEY_FILE')
  const previous = variable(env, 'API_KEY_MASTER_KEY_PREVIOUS') ?? ''
  if (text !== undefined && path !== undefined) {
    throw unusable('API_KEY_MASTER_KEY and API_KEY_MASTER_KEY_FILE are both set: unset one of them')
  }
  let primary: MasterKey
  if (text !== undefined) primary = keyFromText(text, 'API_KEY_MASTER_KEY', env)
  else if (path !== undefined) primary = keyFromFile(path, env)
  else throw unusable(`Neither API_KEY_MASTER_KEY nor API_KEY_MASTER_KEY_FILE is set. ${adviceForUnset()}`)
  const earlier = previous.split(/\s+/).filter((word) => word !== '')
  return masterKeyring({
    primary,
    previous: earlier.map((word, index) =>
      keyFromText(word, `API_KEY_MASTER_KEY_PREVIOUS, key ${index + 1},`, env),
    ),
  })
}

/** Somebody who has run `init` is not sent there again. The file is named and not taken: in production it is rarely the right one. */
function adviceForUnset(): string {
  const useIt = `\`export API_KEY_MASTER_KEY_FILE=${DEFAULT_MASTER_KEY_FILE}\``
  if (existsSync(DEFAULT_MASTER_KEY_FILE))
    return `There is a master key in ${DEFAULT_MASTER_KEY_FILE}: ${useIt}, in the shell or in the file from which the application has its environment`
  return (
    `\`npx keystore init\` makes a master key in ${DEFAULT_MASTER_KEY_FILE}: then ${useIt}. ` +
    'Or set API_KEY_MASTER_KEY to what `openssl rand -base64 32` prints'
  )
}

/**
 * The keyring of one file, which holds what `API_KEY_MASTER_KEY` may hold: base64 or base64url of exactly 32 bytes, or the name of a key in
 * a key service. What such a service needs besides, as a token, is taken from the process's environment.
 *
 * @throws MasterKeyError `ERR_MASTER_KEY`
 */
export function masterKeysFromFile(path: string): MasterKeyring {
  return masterKeyring({ primary: keyFromFile(path, process.env) })
}

/**
 * The reference's `resolve_master_key`: the 32 bytes of `API_KEY_MASTER_KEY`, or null and one warning when it is unset or
 * unusable. Unlike the reference it takes base64 without padding, and refuses characters that Python skips.
 */
export function resolveMasterKey(env: Environment = process.env): Uint8Array | null {
  const text = variable(env, 'API_KEY_MASTER_KEY')?.trim() ?? ''
  const key = decodeKey(text)
  if (key === null) {
    const problem =
      text === '' ? 'is not set' : isHexadecimal(text) ? HEXADECIMAL : 'is not base64 of exactly 32 bytes'
    warn(`API_KEY_MASTER_KEY ${problem}: ${HOW_TO_MAKE_ONE}`)
  }
  return key
}

function keyFromFile(path: string, env: Environment): MasterKey {
  if (typeof path !== 'string') throw invalidArgument(`path must be a string, got ${kindOf(path)}`)
  let text: string
  let problem: string | null
  try {
    const file = openSync(path, 'r')
    try {
      text = readFileSync(file, 'utf8')
      // Of the file that was read, whatever has the name by now.
      problem = modeProblem(path, fstatSync(file).mode)
    } finally {
      closeSync(file)
    }
  } catch (error) {
    assertKeyPath(path)
    const reason = error instanceof Error && 'code' in error ? String(error.code) : 'unreadable'
    const where = isAbsolute(path) ? path : `${path}, which is ${resolve(path)} here,`
    throw unusable(`The master key file ${where} cannot be read (${reason}): ${adviceFor(reason, path)}`)
  }
  const key = keyFromText(text, `The master key file ${shownKeyPath(path)}`, env)
  // The name of a key in a service is no secret.
  if (problem !== null && isLocal(key)) warn(problem)
  return key
}

function adviceFor(reason: string, path: string): string {
  if (reason === 'EISDIR') return 'it is a folder, so name the file in it'
  if (reason !== 'ENOENT') return 'give it to the user that this process runs as'
  if (path.startsWith('~'))
    return 'a shell replaces ~ only where it is not in quotes, so write the whole path'
  const relative = isAbsolute(path) ? '' : 'a relative path counts from the folder that the process runs in. '
  return `${relative}If there is a master key already, name its file; only if there is none, ${HOW_TO_MAKE_ONE}`
}

/**
 * What is wrong with the mode of a file that holds a secret, and what to do.
 *
 * @param what the file holds
 * @returns null if nothing is, or if there is no such file
 */
export function secretFileProblem(path: string, what: string): string | null {
  const found = statSync(path, { throwIfNoEntry: false })
  return found === undefined ? null : modeProblem(path, found.mode, what)
}

/** {@link secretFileProblem} of a master key file. Null too if it holds the name of a key in a service, which is no secret. */
export function masterKeyFileProblem(path: string): string | null {
  const problem = secretFileProblem(path, 'master key')
  return problem !== null && holdsName(path) ? null : problem
}

function holdsName(path: string): boolean {
  try {
    return isServiceName(readFileSync(path, 'utf8').trim())
  } catch {
    return false
  }
}

/** Windows has no such modes. */
function modeProblem(path: string, mode: number, what = 'master key'): string | null {
  if (process.platform === 'win32' || (mode & 0o077) === 0) return null
  const shown = (mode & 0o777).toString(8)
  const name = shownKeyPath(path)
  return `The ${what} file ${name} has mode ${shown}, which is not for its owner alone: chmod 600 ${name}`
}

function keyFromText(text: string, source: string, env: Environment): MasterKey {
  const named = serviceKey(text.trim(), source, env)
  if (named !== null) return named
  const key = decodeKey(text.trim())
  if (key === null && isHexadecimal(text.trim())) throw unusable(`${source} ${HEXADECIMAL}`)
  if (key === null) throw unusable(`${source} is not base64 of exactly 32 bytes: ${HOW_TO_MAKE_ONE}`)
  try {
    if (isOneByteRepeated(key)) {
      throw unusable(`${source} is one byte repeated 32 times, which anybody can guess: ${HOW_TO_MAKE_ONE}`)
    }
    if (key.every((byte) => byte >= 0x20 && byte < 0x7f)) {
      warn(`${source} is 32 printable characters, so a passphrase and no random key: ${HOW_TO_MAKE_ONE}`)
    }
    return localMasterKey(key)
  } finally {
    key.fill(0)
  }
}

function unusable(message: string): MasterKeyError {
  return new MasterKeyError('ERR_MASTER_KEY', message)
}

function warn(message: string): void {
  process.emitWarning(message, { type: 'KeystoreWarning', code: 'KEYSTORE_MASTER_KEY' })
}
