/** test/support/README.md names every helper, fixture and vector of the tests, and no file that is gone. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { root } from '../support/root.js'

const FOLDERS = ['support', 'children', 'fixtures', 'vectors'].map((name) => join(root, 'test', name))

const index = readFileSync(join(root, 'test/support/README.md'), 'utf8')
/** The files that stand first in a row of a table, with what the row says of them. */
const rows = Array.from(index.matchAll(/^\| `([^`]+)` \| (.+) \|$/gm), ([, file = '', text = '']) => ({
  file,
  text,
}))

/** What is wrong with an index of these files. */
function problemsOf(indexed: readonly string[], files: readonly string[]): string[] {
  return [
    ...files.filter((file) => !indexed.includes(file)).map((file) => `${file} is not in the index`),
    ...indexed.filter((file) => !files.includes(file)).map((file) => `${file} is in the index, and gone`),
    ...indexed
      .filter((file, at) => indexed.indexOf(file) !== at)
      .map((file) => `${file} is in the index twice`),
  ]
}

describe('the index of test/support', () => {
  it('has a row for each file of its folders, and for no other', () => {
    const files = FOLDERS.flatMap((folder) => readdirSync(folder))
    expect(files.length).toBeGreaterThan(50)
    const indexed = rows.map(({ file }) => file)
    expect(
      problemsOf(
        indexed,
        files.filter((file) => file !== 'README.md'),
      ),
    ).toEqual([])
  })

  it('says of each file what it is for, in one sentence or two', () => {
    for (const { file, text } of rows) expect(text, file).toMatch(/^[A-Z].{15,140}\.$/)
  })

  it('would be found incomplete, out of date, or repeated', () => {
    expect(problemsOf(['a.ts', 'b.ts', 'b.ts'], ['b.ts', 'c.ts'])).toEqual([
      'c.ts is not in the index',
      'a.ts is in the index, and gone',
      'b.ts is in the index twice',
    ])
  })
})
