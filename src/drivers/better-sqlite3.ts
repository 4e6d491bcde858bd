/** Whether the installed better-sqlite3 runs on this Node.js. Does not import it. */
import { readFileSync } from 'node:fs'
import { StoreError } from '../errors.js'

/**
 * Throws where opening a database would end the process: better-sqlite3 13 on Node.js 20 is killed by SIGSEGV. Package managers only warn of
 * its `engines`.
 *
 * @throws ERR_STORE
 */
export function assertBetterSqlite3Runs(): void {
  const installed = installedPackage('better-sqlite3')
  const [, least] = /^\s*>=\s*(\d+)/.exec(installed?.engines?.node ?? '') ?? []
  const major = Number.parseInt(process.versions.node, 10)
  if (least === undefined || major >= Number(least)) return
  throw new StoreError(
    `better-sqlite3 ${installed?.version} needs Node.js ${least} or newer, this is ${process.versions.node}: ` +
      'use a newer Node.js, or npm install better-sqlite3@12',
  )
}

interface Package {
  readonly version?: string
  readonly engines?: { readonly node?: string }
}

/**
 * @param name not a literal below: webpack looks for what a literal names, and fails where it is not installed
 * @returns null where it cannot be found, as in a bundle: then its engines are not known
 */
function installedPackage(name: string): Package | null {
  try {
    return JSON.parse(readFileSync(new URL(import.meta.resolve(`${name}/package.json`)), 'utf8'))
  } catch {
    return null
  }
}
