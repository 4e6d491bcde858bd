/** The test files that have larger counts with SLOW=1: only these run then. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

const IMPORTS_COUNTS = /^(?:import|\}) .*from '\.[./]*\/support\/(?:slow|child-kills)\.js'/m

/** Whether the text of a test file takes its counts from slow.ts or child-kills.ts. */
export function hasSlowCounts(text: string): boolean {
  return IMPORTS_COUNTS.test(text)
}

/** Their paths from the root, with slashes, sorted. */
export function slowFiles(root: string): string[] {
  return readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
    .map((path) => `test/${path.replaceAll('\\', '/')}`)
    .filter((path) => path.endsWith('.test.ts') && hasSlowCounts(readFileSync(join(root, path), 'utf8')))
    .sort()
}
