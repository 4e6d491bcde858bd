/** Collects the process warnings of the library that a piece of work causes. */

/** Node emits warnings in a later turn: waits for them before it stops listening. */
export async function warningsOf(work: () => unknown): Promise<(Error & { readonly code?: unknown })[]> {
  const warnings: Error[] = []
  const listener = (warning: Error) => {
    if (warning.name === 'KeystoreWarning') warnings.push(warning)
  }
  // Else Node prints them, among the results of the tests.
  const printing = process.listeners('warning')
  process.removeAllListeners('warning')
  process.on('warning', listener)
  try {
    await work()
    await new Promise((resolve) => setImmediate(resolve))
  } finally {
    process.off('warning', listener)
    for (const other of printing) process.on('warning', other)
  }
  return warnings
}
