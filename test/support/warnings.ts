/** Process warnings of the library. */

/** Runs `work`. @returns the library's warnings that it caused; Node emits them one turn of the event loop later */
export async function warningsOf(work: () => unknown): Promise<(Error & { readonly code?: unknown })[]> {
  const warnings: Error[] = []
  const listener = (warning: Error) => {
    if (warning.name === 'KeystoreWarning') warnings.push(warning)
  }
  // Node's own listener would print them among the results of the tests.
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
