/** Random bytes from the operating system itself, which a process that was cloned does not share with its clone. */
import { closeSync, openSync, readSync } from 'node:fs'

/** The generator of Linux and macOS (random(4), urandom(4)). Opened anew each time: a descriptor that is kept may be closed by others. */
const DEVICE = '/dev/urandom'

/**
 * Node's own randomBytes asks OpenSSL, whose generator has its state in this process. A virtual machine's snapshot, and a process that is
 * checkpointed, copy that state. Each copy then makes the same bytes, until OpenSSL reseeds by itself. Node offers no call of getrandom(2) itself.
 *
 * @returns null where there is no such generator: on Windows, in Workers, in a root folder without /dev
 */
export function osRandomBytes(length: number): Buffer | null {
  if (process.platform === 'win32') return null
  let device: number
  try {
    device = openSync(DEVICE, 'r')
  } catch {
    return null
  }
  try {
    const bytes = Buffer.alloc(length)
    return readSync(device, bytes, 0, length, null) === length ? bytes : null
  } catch {
    return null
  } finally {
    closeSync(device)
  }
}
