/** Keeps master key and database out of git. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { isLibsqlUrl, isPostgresUrl, sqlitePath } from '../drivers/url.js'
import { makeFolders } from '../folders.js'
import { printableSentence } from './printable.js'
import { sayError } from './say.js'

/**
 * Names files in the `.gitignore` of their folders: makes it, or adds the lines that it lacks. Where it cannot be written, a line on
 * standard error says so: the command goes on, because a key or a backup matters more.
 *
 * @returns the files that were written
 */
export function ignoreInGit(paths: readonly string[]): readonly string[] {
  const folders = new Map<string, string[]>()
  for (const path of paths) {
    const lines = folders.get(dirname(path)) ?? []
    folders.set(dirname(path), [...lines, patternOf(basename(path))])
  }
  return [...folders].flatMap(([folder, patterns]) => {
    const file = join(folder, '.gitignore')
    try {
      return addLines(file, patterns) ? [file] : []
    } catch (error) {
      const reason = error instanceof Error && 'code' in error ? String(error.code) : 'unknown'
      sayError(
        printableSentence(
          `${file} could not be written (${reason}): keep the files that this command makes out of git.`,
        ),
      )
      return []
    }
  })
}

/** @returns false if it has them all */
function addLines(file: string, lines: readonly string[]): boolean {
  const text = existsSync(file) ? readFileSync(file, 'utf8') : ''
  const present = new Set(text.split(/\r?\n/))
  const missing = lines.filter((line) => !present.has(line))
  if (missing.length === 0) return false
  const begin = text === '' || text.endsWith('\n') ? text : `${text}\n`
  writeFileSync(file, `${begin}${missing.join('\n')}\n`)
  return true
}

/** {@link ignoreInGit} of a file that a command makes, which it says on standard error. */
export function keepOutOfGit(path: string): void {
  for (const file of ignoreInGit([path])) sayError(printableSentence(`${file} keeps ${path} out of git.`))
}

/** The same of a store, where opening it makes a file. */
export function keepNewStoreOutOfGit(url: string): void {
  const file = storeFile(url)
  if (file === null || existsSync(file)) return
  makeFolders(dirname(file))
  keepOutOfGit(file)
}

/** This file, and those that SQLite makes beside it. */
function patternOf(name: string): string {
  return `/${name.replace(/[\\*?[\]! #]/g, '\\$&')}*`
}

/** The file of a store; null if it is on Postgres, or in memory. */
export function storeFile(url: string): string | null {
  if (isPostgresUrl(url) || isLibsqlUrl(url)) return null
  const path = sqlitePath(url)
  return path === ':memory:' ? null : path
}

/** Whether two files are in one folder, and so most likely in one backup. */
export function areTogether(a: string, b: string): boolean {
  return dirname(resolve(a)) === dirname(resolve(b))
}
