/** SECURITY.md names tests that exist, and its advice on where to keep a master key is right. */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { generateMasterKey } from '../../src/index.js'
import { temporaryFolder } from '../support/databases.js'
import { root } from '../support/root.js'

const security = readFileSync(join(root, 'SECURITY.md'), 'utf8')

interface Citation {
  readonly file: string
  readonly title: string
}

/** Each `file`: “title” of a text; a file may be followed by several titles. */
function citationsIn(text: string): Citation[] {
  return [...text.matchAll(/`((?:test|src\/testing)\/[^`]+\.ts)`((?:[:,]?(?: and)? “[^”]+”)*)/g)].flatMap(
    ([, file = '', titles = '']) => {
      const named = [...titles.matchAll(/“([^”]+)”/g)].map(([, title = '']) => ({ file, title }))
      return named.length > 0 ? named : [{ file, title: '' }]
    },
  )
}

/** The titles of a test file: what a run fills in stands as …, as in SECURITY.md. */
function titlesIn(source: string): string[] {
  const literal = /(?<=\(\s*)(?:'((?:[^'\\\n]|\\.)*)'|"((?:[^"\\\n]|\\.)*)"|`([^`]*)`),/g
  return [...source.matchAll(literal)].map(([, single, double, template]) =>
    (single ?? double ?? template ?? '')
      .replaceAll(/\$\{[^}]*\}|%[sdijo]/g, '…')
      .replaceAll(/\\(['"])/g, '$1'),
  )
}

function missingOf(citations: readonly Citation[]): Citation[] {
  return citations.filter(({ file, title }) => {
    const path = join(root, file)
    return !existsSync(path) || !titlesIn(readFileSync(path, 'utf8')).includes(title)
  })
}

describe('SECURITY.md', () => {
  it('names only tests that exist, each with its title', () => {
    const citations = citationsIn(security)
    expect(citations.length).toBeGreaterThan(30)
    expect(missingOf(citations)).toEqual([])
  })

  it('would be found wrong with a file that is gone, another title, or none', () => {
    const right = '`test/envelope/binding.test.ts` “opens a wrapped key in its own row only”'
    expect(missingOf(citationsIn(right))).toEqual([])
    const wrong = [
      right.replace('binding', 'gone'),
      right.replace('own row', 'other row'),
      '`test/envelope/binding.test.ts` shows it',
      `${right}, “and another”`,
    ]
    for (const text of wrong) expect(missingOf(citationsIn(text)), text).toHaveLength(1)
  })

  it('has a section for each attacker', () => {
    for (const attacker of [
      'A reader of the database',
      'A writer of the database',
      'A thief of a backup',
      'A writer of a backup',
      'A reader of logs',
      'Another tenant',
      'Whoever is in the process',
      'An operator, by mistake',
    ])
      expect(security).toContain(`### ${attacker}\n`)
  })
})

describe('a master key in the environment', () => {
  const print = `
    const { spawnSync } = require('node:child_process')
    const fs = require('node:fs')
    const child = spawnSync(process.execPath, ['-p', 'JSON.stringify(process.env)'], { encoding: 'utf8' }).stdout
    const report = JSON.stringify(process.report.getReport().environmentVariables)
    const proc = process.platform === 'linux' ? fs.readFileSync('/proc/self/environ', 'utf8') : null
    console.log(JSON.stringify({ child, report, proc }))`
  const shownWith = (env: NodeJS.ProcessEnv): Record<string, string | null> =>
    JSON.parse(
      spawnSync(process.execPath, ['-e', print], { encoding: 'utf8', env: { ...process.env, ...env } })
        .stdout,
    )

  it('is seen in child processes, in a diagnostic report and in /proc; one in a file is not', () => {
    const folder = temporaryFolder()
    try {
      const key = generateMasterKey()
      const file = join(folder.path, 'master.key')
      writeFileSync(file, key, { mode: 0o600 })
      const inEnvironment = shownWith({ API_KEY_MASTER_KEY: key })
      const inFile = shownWith({ API_KEY_MASTER_KEY_FILE: file })
      for (const [where, shown] of Object.entries(inEnvironment)) {
        if (shown === null) continue
        expect(shown, where).toContain(key)
        expect(inFile[where], where).toContain(file)
        expect(inFile[where], where).not.toContain(key)
      }
    } finally {
      folder.remove()
    }
  })
})
