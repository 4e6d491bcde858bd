/** A pseudo terminal for a command: `script` of util-linux. */
import { spawn, spawnSync } from 'node:child_process'
import { resolve } from 'node:path'
import { cleanEnvironment } from './command.js'

export const hasTerminal =
  spawnSync('script', ['--version'], { encoding: 'utf8' }).stdout?.includes('util-linux') === true

export interface Shown {
  readonly status: number | null
  /** What the terminal showed: standard output and standard error. */
  readonly shown: string
}

interface TerminalOptions {
  readonly env?: NodeJS.ProcessEnv
  /** Of the terminal, in characters. */
  readonly columns?: number
}

/** Runs a command on a terminal, types `typed` there, and ends its input. */
export function onTerminal(
  folder: string,
  args: readonly string[],
  { typed = '', ...options }: TerminalOptions & { readonly typed?: string } = {},
): Shown {
  const run = spawnSync('script', scriptArguments(args, options), {
    cwd: folder,
    env: cleanEnvironment(options.env),
    input: typed,
    encoding: 'utf8',
  })
  return { status: run.status, shown: run.stdout }
}

/** Ctrl-D, to answer with: no line follows it. */
export const END_OF_INPUT = '\u0004'

/** So long may a command take to end after the answer. */
const PATIENCE_MS = 20_000

/**
 * Runs a command on a terminal that stays open, as a person's does, and types an answer once the question is shown.
 *
 * @returns status null if the command had not ended after 20 s
 */
export function answerOnTerminal(
  folder: string,
  args: readonly string[],
  question: RegExp,
  answer: string,
  options: TerminalOptions = {},
): Promise<Shown> {
  return new Promise((done, failed) => {
    const child = spawn('script', scriptArguments(args, options), {
      cwd: folder,
      env: cleanEnvironment(options.env),
    })
    const patience = setTimeout(() => child.kill('SIGKILL'), PATIENCE_MS)
    let shown = ''
    let isAnswered = false
    child.stdout.setEncoding('utf8').on('data', (text) => {
      shown += text
      if (isAnswered || !question.test(shown)) return
      isAnswered = true
      child.stdin.write(answer === END_OF_INPUT ? answer : `${answer}\n`)
    })
    child.on('error', failed)
    child.on('close', (status) => {
      clearTimeout(patience)
      done({ status, shown })
    })
  })
}

function scriptArguments(args: readonly string[], { columns }: TerminalOptions): string[] {
  const words = [process.execPath, resolve('dist/cli/main.js'), ...args]
  const command = words.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(' ')
  const width = columns === undefined ? '' : `stty cols ${columns}; `
  return ['--quiet', '--return', '--command', `${width}${command}`, '/dev/null']
}
