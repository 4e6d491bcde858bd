/** Confirmations of what cannot be undone: a text has to be typed, unless --yes was given. */
import { createInterface } from 'node:readline'
import { invalidArgument } from '../errors.js'

export interface ConfirmOptions {
  readonly yes?: boolean
}

/** @throws ERR_INVALID_ARGUMENT if somebody has to be asked and nobody can be. @param what what `--yes` does without being asked */
export function assertCanAsk({ yes = false }: ConfirmOptions, what: string): void {
  if (!yes && !process.stdin.isTTY)
    throw invalidArgument(`There is no terminal to ask on: give --yes to ${what} without being asked`)
}

/** Asks on standard error, so that standard output holds the report alone. False if the input ends without a line. */
export async function isTyped(question: string, expected: string): Promise<boolean> {
  process.stderr.write(question)
  const { stdin } = process
  stdin.ref()
  try {
    for await (const line of createInterface({ input: stdin })) return line === expected
    // Ctrl-D leaves the cursor behind the question, and what is said next is no answer.
    process.stderr.write('\n')
    return false
  } finally {
    // A terminal that was read once keeps the process alive, even after its reader was closed.
    stdin.unref()
  }
}
