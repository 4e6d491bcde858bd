/** A pseudo terminal for a command: `script` of util-linux. */
import { spawnSync } from 'node:child_process'
import { resolve } from 'node:path'
import { cleanEnvironment } from './command.js'

export const hasTerminal =
  spawnSync('script', ['--version'], { encoding: 'utf8' }).stdout?.includes('util-linux') === true

/** Runs a command on a terminal, and types `typed` there. @returns what the terminal showed: standard output and standard error */
export function onTerminal(
  folder: string,
  args: readonly string[],
  { typed = '', env = {} }: { readonly typed?: string; readonly env?: NodeJS.ProcessEnv } = {},
): { readonly status: number | null; readonly shown: string } {
  const words = [process.execPath, resolve('dist/cli/main.js'), ...args]
  const command = words.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(' ')
  const run = spawnSync('script', ['--quiet', '--return', '--command', command, '/dev/null'], {
    cwd: folder,
    env: cleanEnvironment(env),
    input: typed,
    encoding: 'utf8',
  })
  return { status: run.status, shown: run.stdout }
}
