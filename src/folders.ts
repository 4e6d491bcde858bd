/** Folders of files that are made, and paths that name a folder where a file is wanted. */
import { existsSync, mkdirSync, statSync } from 'node:fs'
import { dirname, join, resolve, sep } from 'node:path'
import { invalidArgument } from './errors.js'

/**
 * Makes a folder and those above it, for their owner alone. Folders that are there keep their modes. In place of the `recursive` of
 * Node.js, which never returns where a file system answers ENOENT for a folder that cannot be made, as /proc does
 * (`MKDirpSync` of node/src/node_file.cc).
 *
 * @throws the error of Node.js if a folder cannot be made, or a file has its name
 */
export function makeFolders(path: string): void {
  const missing: string[] = []
  for (let folder = resolve(path); !existsSync(folder); folder = dirname(folder)) {
    missing.push(folder)
    // The root of a drive that is not there.
    if (dirname(folder) === folder) break
  }
  for (const folder of missing.reverse()) {
    try {
      mkdirSync(folder, { mode: 0o700 })
    } catch (error) {
      // Another process may have made it meanwhile.
      if (!isFolder(folder)) throw error
    }
  }
}

/**
 * Refuses a folder where a file is wanted: one that is there, or one that a separator at its end says it is.
 *
 * @throws ERR_INVALID_ARGUMENT
 */
export function assertFilePath(path: string, what = 'the store', example = 'keystore.db'): void {
  if (existsSync(join(path, 'PG_VERSION'))) throw invalidArgument(`${path} ${POSTGRES_FOLDER}`)
  if (path.endsWith('/') || path.endsWith(sep) || isFolder(path))
    throw invalidArgument(`${path} is a folder: name the file of ${what}, such as ${join(path, example)}`)
}

/** PGlite keeps its data as a Postgres server does: with a file PG_VERSION. */
const POSTGRES_FOLDER =
  'is the data folder of a Postgres database (PGlite, or a server), which only the program that runs it can open. An application with PGlite ' +
  'gives its own drizzle db to postgresKeyStore({ db }), and does what commands do with the library: store.maintenance (inspect, ' +
  'finishErasure), census, verifyAll, rewrapAll, rotateWhere, pruneRetired, shredUser, copyKeys. `npx keystore new-master-key FILE` makes a ' +
  'master key for it. A server is opened by its URL, postgres://…'

/** What cannot be looked at is none: whoever opens it then has the reason. */
function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory()
  } catch {
    return false
  }
}
