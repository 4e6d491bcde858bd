/** Paths of master key files, where somebody may have put a key itself: it is shown nowhere, and no file gets its name. */
import { MasterKeyError } from '../errors.js'
import { HEXADECIMAL, isHexadecimal, isKeyLike } from './local.js'
import { isServiceName } from './service-keys.js'

/** A path for a message. */
export function shownKeyPath(path: string): string {
  return isNoPath(path) ? '(whose path looks like a key, and is not shown)' : path
}

/** @throws MasterKeyError `ERR_MASTER_KEY`, which does not show it, if it is a key or the name of one */
export function assertKeyPath(path: string): void {
  if (isServiceName(path.trim()))
    throw refused(
      'The path of the master key file is the name of a key in a key service: set API_KEY_MASTER_KEY to it',
    )
  if (!isKeyLike(path)) return
  const advice = isHexadecimal(path.trim())
    ? `: it ${HEXADECIMAL}, and set API_KEY_MASTER_KEY to that`
    : ': set API_KEY_MASTER_KEY to it'
  throw refused(
    `The path of the master key file is a master key itself, or a part of one${advice}. If it is the path of a file after all, write ./ before it`,
  )
}

function isNoPath(path: string): boolean {
  return isKeyLike(path) || isServiceName(path.trim())
}

function refused(message: string): MasterKeyError {
  return new MasterKeyError('ERR_MASTER_KEY', message)
}
