/**
 * The blocks of a page as a project. `ts src/app.ts` names the file that a block is, and `ts src/app.ts run` says that it is run, and prints what
 * the comments `// →` of its lines say. `postgres` at the end: it stands for the block before it, on Postgres.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { generateMasterKey } from '../../src/index.js'
import { cleanEnvironment } from './command.js'

export interface PageBlock {
  readonly language: string
  /** The file that it is; empty: it is none. */
  readonly file: string
  readonly isRun: boolean
  readonly isForPostgres: boolean
  readonly text: string
}

/** All blocks of a document, of every language, without their indentation. */
export function pageBlocks(markdown: string): PageBlock[] {
  return [...markdown.matchAll(/^( *)```(\S*) ?([^\n]*)\n(.*?)^\1```$/gms)].map(
    ([, indentation = '', language = '', words = '', code = '']) => {
      const marks = words.split(' ')
      const [file = ''] = marks
      const text = code.replaceAll(new RegExp(`^${indentation}`, 'gm'), '')
      return {
        language,
        file: file.includes('.') ? file : '',
        isRun: marks.includes('run'),
        isForPostgres: marks.includes('postgres'),
        text,
      }
    },
  )
}

export function blocksOfPage(path: string): PageBlock[] {
  return pageBlocks(readFileSync(path, 'utf8'))
}

/** What a block says that it prints, a line each. */
export function saidOutput({ text }: PageBlock): string[] {
  return [...text.matchAll(/\/\/ → (.*)$/gm)].map(([, said = '']) => said)
}

/** The files of a page: the blocks that name one, in a folder. */
export function pageFiles(blocks: readonly PageBlock[], folder: string): Record<string, string> {
  const files = blocks.filter(({ file }) => file.endsWith('.ts'))
  return Object.fromEntries(files.map(({ file, text }) => [join(folder, file), text]))
}

/** Runs a compiled file of a folder, which must succeed; with a master key, unless `env` says which. @returns the lines that it printed */
export function runPageFile(folder: string, file: string, env?: NodeJS.ProcessEnv): string[] {
  const output = execFileSync(process.execPath, [file.replace(/\.ts$/, '.js')], {
    cwd: folder,
    env: cleanEnvironment(env ?? { API_KEY_MASTER_KEY: generateMasterKey() }),
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  return output.split('\n').slice(0, -1)
}

/** Runs a file of tests with the runner of Node.js. @returns what it printed, which tells what failed */
export function runPageTests(folder: string, file: string): { status: number | null; output: string } {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['--test', '--test-reporter=spec', file.replace(/\.ts$/, '.js')],
    { cwd: folder, env: cleanEnvironment({}), encoding: 'utf8' },
  )
  return { status, output: stdout + stderr }
}
