/** What `npm test` prints: the reporter on small projects of its own. */
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stripVTControlCharacters } from 'node:util'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { itIf } from '../support/conditional.js'
import { temporaryFolder } from '../support/databases.js'
import { hasTerminal } from '../support/terminal.js'

const root = join(import.meta.dirname, '..', '..')
const VITEST = join(root, 'node_modules', 'vitest', 'vitest.mjs')

const MIXED = `
import { expect, it } from 'vitest'
import { itIf, describeIf } from ${JSON.stringify(join(root, 'test/support/conditional.ts'))}
it('passes', () => console.log('a figure: 7\\nand more'))
it('fails', () => {
  console.log('what it saw')
  expect('seen').toBe('wanted')
})
itIf(true, 'never said')('runs', () => undefined)
itIf(false, 'there is no moon')('waits', () => undefined)
describeIf(false, 'there is no sun')('a group', () => {
  it('a', () => undefined)
  it('b', () => undefined)
})
`

let folder: ReturnType<typeof temporaryFolder>
beforeEach(() => {
  folder = temporaryFolder()
  symlinkSync(join(root, 'node_modules'), join(folder.path, 'node_modules'))
  configure()
})
afterEach(() => folder.remove())

function configure(options: Readonly<Record<string, unknown>> = {}): void {
  const reporters = [join(root, 'test/support/summary-reporter.ts')]
  const config = { test: { reporters, silent: 'passed-only', include: ['*.case.js'], ...options } }
  writeFileSync(join(folder.path, 'vitest.config.mjs'), `export default ${JSON.stringify(config)}`)
}

function runCases(cases: Readonly<Record<string, string>>, ...args: readonly string[]) {
  for (const [name, code] of Object.entries(cases)) writeFileSync(join(folder.path, `${name}.case.js`), code)
  const { command, env } = vitest(args)
  const run = spawnSync(process.execPath, command, { cwd: folder.path, env, encoding: 'utf8' })
  return { status: run.status, output: run.stdout + run.stderr, lines: run.stdout.trimEnd().split('\n') }
}

/** Without what our own run has told its processes. */
function vitest(args: readonly string[]) {
  const env = Object.entries(process.env).filter(
    ([name]) => !/^(VITEST|TEST|FORCE_COLOR|NODE_ENV)/.test(name),
  )
  return { command: [VITEST, 'run', ...args], env: { ...Object.fromEntries(env), NO_COLOR: '1' } }
}

describe('the reporter', () => {
  it('prints a line a file, why tests are skipped, failures in full, and the counts last', () => {
    const { status, output, lines } = runCases({ mixed: MIXED })
    expect(status).toBe(1)
    expect(lines).toEqual(
      expect.arrayContaining([
        expect.stringMatching(/^ ✗ 1\/1 {2}mixed\.case\.js \(6 tests, \d+\.\d s\)$/),
        '     ✗ fails',
        '   mixed.case.js: there is no moon (1 test)',
        '   mixed.case.js: there is no sun (2 tests)',
        '   mixed.case.js: a figure: 7 (and 1 more line)',
        'what it saw',
      ]),
    )
    expect(output.match(/expected 'seen' to be 'wanted'/g)).toHaveLength(1)
    expect(output.match(/^what it saw$/gm)).toHaveLength(1)
    expect(output).not.toContain('and more\n')
    expect(lines.at(-1)).toBe('2 passed, 1 failed, 3 skipped')
  })

  it('prints no more for many files, but names each that fails', () => {
    configure({ isolate: false, maxWorkers: 1 })
    const passing = Array.from({ length: 99 }, (_, index): [string, string] => [
      `passing-${index}`,
      `import { it } from 'vitest'\nit('is fine', () => console.log('printed by ${index}'))`,
    ])
    const failing = ['x', 'y'].map((name): [string, string] => [name, 'no module()'])
    const { status, lines } = runCases(Object.fromEntries([...passing, ...failing]))
    expect(status).toBe(1)
    expect(lines.length).toBeLessThan(100)
    expect(lines.filter((line) => line.startsWith(' ✗ ')).length).toBe(2)
    expect(lines.filter((line) => line.startsWith(' ✓ ')).length).toBeLessThanOrEqual(40)
    expect(lines).toContain('   … and 79 more')
    expect(lines.at(-1)).toBe('99 passed, 2 failed')
  })

  it('says that a filter skips the others, and lists none of them', () => {
    const { status, lines } = runCases({ mixed: MIXED }, '-t', 'runs')
    expect(status).toBe(0)
    expect(lines).toContain('   not chosen by --testNamePattern (2 tests)')
    expect(lines.at(-1)).toBe('1 passed, 0 failed, 5 skipped')
  })

  it('shows a server that cannot be started in one short error', () => {
    const server = JSON.stringify(join(root, 'test/support/embedded-postgres.mjs'))
    const setup = `import { startEmbeddedPostgres } from ${server}
      export default () => startEmbeddedPostgres({ binaries: '/none', otherServer: 'Use another server.' })`
    writeFileSync(join(folder.path, 'setup.mjs'), setup)
    configure({ globalSetup: ['./setup.mjs'] })
    const { status, output, lines } = runCases({ mixed: MIXED })
    expect(status).toBe(1)
    expect(output).toMatch(/Error: PostgreSQL could not be started:\n(.+\n)+ {2}- Use another server\.\n/)
    expect(output).not.toMatch(/^\s+at |❯|No test files/m)
    expect(output.split('\n').length).toBeLessThan(25)
    expect(lines.at(-1)).toBe('0 passed, 1 failed')
  })

  itIf(hasTerminal, 'script (util-linux) is not installed')('ends with the counts on a terminal too', () => {
    writeFileSync(join(folder.path, 'mixed.case.js'), MIXED)
    const { command, env } = vitest([])
    const typed = [process.execPath, ...command].map((word) => `'${word}'`).join(' ')
    const args = ['--quiet', '--return', '--command', typed, '/dev/null']
    const { status, stdout } = spawnSync('script', args, { cwd: folder.path, env, encoding: 'utf8' })
    expect(status).toBe(1)
    expect(stripVTControlCharacters(stdout).trimEnd().split(/\r?\n/).at(-1)).toBe(
      '2 passed, 1 failed, 3 skipped',
    )
  })
})

/** A test that is skipped without saying why. What TEST_BACKENDS chooses is said by the reporter. */
const UNEXPLAINED =
  /\b(it|test|describe)(\.\w+)*\.(skip|todo|skipIf|runIf)\b(?!\((isChosen|dialects\.includes)\()/

/** A test that passes at once where it has nothing to do. */
const SILENT = /=> \{\n(?:\s*\/\/.*\n)*\s*if \(.*\b(?:backend|dialect|slow|platform)\b.*\) return\n/

it('finds no test that is skipped without a reason', () => {
  for (const violation of ["it.skip('x')", 'it.skipIf(missing)(', 'describe.runIf(slow)(', 'it.each.todo'])
    expect(violation).toMatch(UNEXPLAINED)
  const files = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
  const tests = files.filter((name) => name.endsWith('.test.ts') && !name.endsWith('reporter.test.ts'))
  expect("it('x', async () => {\n  // On disk.\n  if (backend === 'memory') return\n").toMatch(SILENT)
  const found = tests.flatMap((file) => {
    const text = readFileSync(join(root, 'test', file), 'utf8')
    const lines = [...text.split('\n').filter((line) => UNEXPLAINED.test(line)), ...(SILENT.exec(text) ?? [])]
    return lines.map((line) => `${file}: ${line.trim()}`)
  })
  expect(found).toEqual([])
})
