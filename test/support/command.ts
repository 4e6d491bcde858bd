/** The command line as a user runs it: compiled, in a folder, without the caller's own keystore variables. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { resolve } from 'node:path'

const MAIN = resolve('dist/cli/main.js')

export interface Ran {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
  /** Standard output, not decoded. */
  readonly bytes: Buffer
}

export interface CommandOptions {
  readonly input?: string | Buffer
  readonly env?: NodeJS.ProcessEnv
  /** After so long a command that does not end is killed: its status is null. Default: never. */
  readonly timeoutMs?: number
}

/** Runs a command to its end. */
export function runKeystore(folder: string, args: readonly string[], options: CommandOptions = {}): Ran {
  const run = spawnSync(process.execPath, [MAIN, ...args], {
    cwd: folder,
    env: cleanEnvironment(options.env),
    input: options.input ?? '',
    timeout: options.timeoutMs,
  })
  return { status: run.status, stdout: String(run.stdout), stderr: String(run.stderr), bytes: run.stdout }
}

/** Starts a command, for tests of what happens while it runs. */
export function startKeystore(
  folder: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
  stdin: 'ignore' | 'pipe' = 'ignore',
): { readonly child: ChildProcess; readonly ended: Promise<Omit<Ran, 'bytes'>> } {
  const child = spawn(process.execPath, [MAIN, ...args], {
    cwd: folder,
    env: cleanEnvironment(env),
    stdio: [stdin, 'pipe', 'pipe'],
  })
  const output = { stdout: '', stderr: '' }
  child.stdout?.on('data', (chunk) => {
    output.stdout += String(chunk)
  })
  child.stderr?.on('data', (chunk) => {
    output.stderr += String(chunk)
  })
  const ended = new Promise<Omit<Ran, 'bytes'>>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (status) => resolve({ status, ...output }))
  })
  return { child, ended }
}

/** This process's environment without the variables that name a store or a master key, and with those given. */
export function cleanEnvironment(env: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const inherited = Object.entries(process.env).filter(
    ([name]) => !/^(API_KEY_MASTER_KEY|KEYSTORE_)/.test(name),
  )
  return { ...Object.fromEntries(inherited), ...env }
}
