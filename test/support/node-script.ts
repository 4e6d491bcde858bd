/** Runs scripts with Node.js to their end, such as the one that checks what would be published. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { root } from './root.js'

export interface Ended {
  readonly status: number
  /** All that it printed. */
  readonly output: string
}

export function runNode(cwd: string, ...args: readonly string[]): Promise<Ended> {
  return new Promise((resolve) => {
    execFile(process.execPath, args, { cwd }, (error, stdout, stderr) => {
      const status = error === null ? 0 : typeof error.code === 'number' ? error.code : 1
      resolve({ status, output: stdout + stderr })
    })
  })
}

export function checkPackage(...args: readonly string[]): Promise<Ended> {
  return runNode(root, join(root, 'scripts', 'check-package.mjs'), ...args)
}
