/** Keeps master key and database out of git. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import { isLibsqlUrl, isPostgresUrl, sqlitePath } from '../drivers/url.js'

/**
 * Names files in the `.gitignore` of their folders: makes it, or adds the lines that it lacks.
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
    const text = existsSync(file) ? readFileSync(file, 'utf8') : ''
    const present = new Set(text.split(/\r?\n/))
    const missing = patterns.filter((pattern) => !present.has(pattern))
    if (missing.length === 0) return []
    const begin = text === '' || text.endsWith('\n') ? text : `${text}\n`
    writeFileSync(file, `${begin}${missing.join('\n')}\n`)
    return [file]
  })
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
