/** Commands on a terminal that stays open, as a person has it: a pipe never reaches a prompt, and has no width. */
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { COMMANDS } from '../../src/cli/commands.js'
import { fittedTable } from '../../src/cli/tables.js'
import { runKeystore } from '../support/command.js'
import { itIf } from '../support/conditional.js'
import { temporaryFolder } from '../support/databases.js'
import { answerOnTerminal, END_OF_INPUT, hasTerminal, onTerminal } from '../support/terminal.js'

const itOnTerminal = itIf(hasTerminal, 'script of util-linux is not installed')

let folder: ReturnType<typeof temporaryFolder>
beforeEach(() => {
  folder = temporaryFolder()
})
afterEach(() => folder.remove())

const keystore = (...args: string[]) => runKeystore(folder.path, args)
describe('a question on a terminal', () => {
  const QUESTIONS: [command: string, args: string[], question: RegExp, right: string][] = [
    ['shred-user', ['shred-user', 'alice'], /type the id: /, 'alice'],
    [
      'copy --apply-erasures',
      ['copy', '--to', 'copy.db', '--apply-erasures'],
      /at the target type ".*": /,
      'erase 1 user',
    ],
    [
      'doctor --give-up-lost-keys',
      ['doctor', '--key-log', 'keys.jsonl', '--give-up-lost-keys'],
      /for good type ".*": /,
      'give up 1 key',
    ],
  ]
  beforeEach(() => {
    keystore('init', '--key-log', 'keys.jsonl')
    runKeystore(folder.path, ['encrypt', '--user', 'alice', '--key-log', 'keys.jsonl'], { input: 'a secret' })
    keystore('copy', '--to', 'copy.db')
  })

  for (const [command, args, question, right] of QUESTIONS) {
    itOnTerminal(`of ${command} ends the command with either answer`, async () => {
      if (command.startsWith('copy')) keystore('shred-user', 'alice', '--yes')
      if (command.startsWith('doctor')) keystore('shred-user', 'alice', '--yes', '--forget')
      const wrong = await answerOnTerminal(folder.path, args, question, 'no')
      expect(wrong.shown).toMatch(question)
      expect(wrong.status).toBe(1)
      // Ctrl-D instead of an answer: what is said next has a line of its own.
      const ended = await answerOnTerminal(folder.path, args, question, END_OF_INPUT)
      expect(ended).toMatchObject({ status: 1, shown: expect.stringMatching(/: \r?\n\S/) })
      const answered = await answerOnTerminal(folder.path, args, question, right)
      expect(answered.shown).toMatch(question)
      expect(answered.status).toBe(0)
    })
  }
})

describe('tables', () => {
  const filled = temporaryFolder()
  const keys = ['--master-key-file', 'next.key', '--previous-key-file', 'data/master.key']
  const inFilled = (args: string[], input?: string) =>
    runKeystore(filled.path, args, input === undefined ? {} : { input })

  // Two master keys, two versions, and a user who was shredded.
  beforeAll(() => {
    inFilled(['init'])
    for (const user of ['alice', 'bob', 'carol']) inFilled(['encrypt', '--user', user], 'a secret')
    inFilled(['rotate-user', 'bob'])
    inFilled(['shred-user', 'carol', '--yes'])
    inFilled(['new-master-key', 'next.key'])
    expect(inFilled(['rewrap', ...keys]).status).toBe(0)
  })
  afterAll(() => filled.remove())

  for (const columns of [60, 80, 120])
    itOnTerminal(`fit a terminal of ${columns} characters, and have no colours`, () => {
      for (const args of [['status'], ['doctor', ...keys], ['rewrap', ...keys]]) {
        const { shown } = onTerminal(filled.path, args, { columns })
        // Of a table, or of the lines that stand for it where it is too narrow.
        const lines = shown.split(/\r?\n/).filter((line) => /[│┌└├]|^(master key|version|made): /.test(line))
        expect(lines.length).toBeGreaterThan(3)
        expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(columns)
        // The progress bar moves the cursor. Colours are SGR sequences, which end with m.
        expect(shown.split('\u001b').filter((text) => /^\[[\d;]+m/.test(text))).toEqual([])
      }
    })

  itOnTerminal('describe options in 60 columns too, broken at words', () => {
    for (const args of [['rewrap', '--help'], ['status', '--help'], []]) {
      const { shown } = onTerminal(filled.path, args, { columns: 60 })
      for (const line of shown.split(/\r?\n/)) expect(line.length, line).toBeLessThanOrEqual(60)
    }
  })

  it('keep every character of a long id', () => {
    const id = `aws-kms:arn:aws:kms:eu-central-1:111122223333:key/${'0123456789abcdef'.repeat(3)}`
    const table = fittedTable([{ head: ['master key', 'rows'], rows: [[id, '12']] }], 40)
    const cells = table.split('\n').flatMap((line) => line.split('│')[1]?.trim() ?? [])
    expect(cells.join('')).toContain(id)
    const records = fittedTable(
      [
        {
          head: ['master key', 'rows'],
          rows: [
            [id, '12'],
            ['b', '1'],
          ],
        },
      ],
      20,
    )
    expect(records).toBe(`master key: ${id}\nrows: 12\n\nmaster key: b\nrows: 1`)
  })

  it('say in a sentence which master key is still needed', () => {
    const { stdout } = inFilled(['doctor', ...keys])
    expect(stdout).toMatch(/│ primary\s+│ 3\s+│ yes: it wraps new keys\s+│/)
    expect(stdout).toMatch(/│ previous\s+│ 0\s+│ no: no row is under it\s+│/)
  })
})

describe('sentences and tables', () => {
  itOnTerminal('fit a terminal of 80 columns', () => {
    const { shown, status } = onTerminal(folder.path, ['quickstart'], { columns: 80 })
    expect(status).toBe(0)
    expect(shown).toContain('│ ok │')
    // What is indented is to be copied.
    const lines = shown.split(/\r?\n/).filter((line) => !/^ {2}\S/.test(line))
    expect(lines.filter((line) => line.length > 80)).toEqual([])
  })
})

describe('findings that are equal', () => {
  it('are counted by master key, also beyond the thousand that are listed', () => {
    keystore('init')
    writeFileSync(
      join(folder.path, 'many.jsonl'),
      Array.from({ length: 1100 }, (_, at) =>
        JSON.stringify({ user: `u${at}`, name: 'n', secret: 's' }),
      ).join('\n'),
    )
    keystore('quickstart', 'many.jsonl')
    keystore('new-master-key', 'other.key')
    runKeystore(folder.path, [
      'rewrap',
      '--master-key-file',
      'other.key',
      '--previous-key-file',
      'data/master.key',
    ])
    writeFileSync(join(folder.path, 'few.jsonl'), '{"user": "v1", "name": "n", "secret": "s"}\n')
    keystore('new-master-key', 'third.key')
    const { stdout, status } = keystore('doctor', '--master-key-file', 'third.key')
    expect(status).toBe(1)
    expect(stdout).toMatch(/1,100 rows, such as "u0", version 1; .*local:/)
    expect(stdout.match(/was not given/g)?.length ?? 0).toBeLessThan(5)
    // The failures of a rewrap too.
    const rewrap = keystore('rewrap', '--master-key-file', 'third.key')
    expect(rewrap.status).toBe(1)
    expect(rewrap.stdout).toMatch(
      /1,100 rows, such as "u\d+", version 1; .*local:.*\[ERR_UNKNOWN_MASTER_KEY\]/,
    )
    expect(rewrap.stdout.match(/ERR_UNKNOWN_MASTER_KEY/g)).toHaveLength(1)
  })
})

describe('the first hour', () => {
  it('begins at the bare command, which names both beginnings and every command in a line', () => {
    const { stderr, status } = keystore()
    expect(status).toBe(2)
    expect(stderr).toContain('npx keystore init')
    expect(stderr).toContain('npx keystore quickstart')
    for (const name of COMMANDS.keys()) expect(stderr).toMatch(new RegExp(`^  ${name} `, 'm'))
    expect(Math.max(...stderr.split('\n').map((line) => line.length))).toBeLessThanOrEqual(80)
  })

  it.each([...COMMANDS])('the help of %s has an example, and no Python', async (_, { load }) => {
    let help = ''
    const command = await load()
    command.configureOutput({ writeOut: (text) => (help += text) }).outputHelp()
    expect(help).toMatch(/\nExamples?:\n {2}.*keystore/)
    expect(help).not.toMatch(/Python|reference/)
    expect(command.options.map(({ description }) => description).join()).not.toContain('Python')
    // A longer example would be wrapped anywhere, or cut.
    const examples = help.slice(help.indexOf('\nExample')).split('\n')
    expect(examples.filter((line) => line.startsWith('  ') && line.length > 80)).toEqual([])
  })

  it('help COMMAND says what the exit codes mean', () => {
    const { stdout, status } = keystore('help', 'rewrap')
    expect(status).toBe(0)
    expect(stdout).toContain('Exit code: 0 done')
  })

  it('does not go in a circle: after init the library names the file that init made', () => {
    const script = `import { masterKeysFromEnv } from ${JSON.stringify(new URL('../../dist/index.js', import.meta.url).href)}
try { masterKeysFromEnv({}) } catch (error) { console.log(error.message) }`
    const message = () =>
      spawnSync(process.execPath, ['--input-type=module', '--eval', script], {
        cwd: folder.path,
        encoding: 'utf8',
      }).stdout
    expect(message()).toContain('`npx keystore init` makes a master key in data/master.key')
    expect(keystore('init').stdout).toContain('export API_KEY_MASTER_KEY_FILE=data/master.key')
    expect(message()).toContain('There is a master key in data/master.key')
    expect(message()).toContain('`export API_KEY_MASTER_KEY_FILE=data/master.key`')
    expect(message()).not.toContain('init')
  })
})

describe('completion', () => {
  const hasBash = spawnSync('bash', ['--version']).status === 0

  itIf(hasBash, 'bash is not installed')('is a script that bash can read', () => {
    const { stdout } = keystore('completion', 'bash')
    expect(spawnSync('bash', ['-n'], { input: stdout }).status).toBe(0)
    expect(stdout).toContain(' complete -- ')
  })

  it('completes commands, options and their choices, also of an empty word', () => {
    expect(keystore('complete', '--', 're').stdout.match(/^[\w-]+/gm)).toEqual([
      'reencrypt',
      'rewrap',
      'restore',
    ])
    expect(keystore('complete', '--', '').stdout).toMatch(/^init\t/m)
    expect(keystore('complete', '--', 'rewrap', '--dry').stdout).toMatch(/^--dry-run\t/m)
    expect(keystore('complete', '--', 'completion', '').stdout).toMatch(/^fish\t/m)
  })

  it('completes no command that only the scripts call', () => {
    expect(keystore('complete', '--', 'comp').stdout.match(/^[\w-]+/gm)).toEqual(['completion'])
    expect(keystore('help').stdout).not.toMatch(/^ +complet(e|ions) /m)
  })

  it('without a shell names all and how each is installed, where no shell runs it', () => {
    const { status, stdout, stderr } = keystore('completion')
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' })
    for (const shell of ['bash', 'zsh', 'fish', 'powershell'])
      expect(stderr).toContain(`npx keystore completion ${shell}`)
    expect(keystore('completion', '--help').stdout).toContain('package bash-completion')
  })

  it('refuses a shell that it does not know', () => {
    expect(keystore('completion', 'tcsh')).toMatchObject({ status: 2 })
  })
})
