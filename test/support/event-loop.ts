/** How long the event loop stood still. */

/** Runs `work`. @returns its result, and the longest time in which no timer could fire, in milliseconds */
export async function withLongestStall<T>(work: () => Promise<T>): Promise<{ result: T; stallMs: number }> {
  const tickMs = 5
  let stallMs = 0
  let last = performance.now()
  const tick = () => {
    const now = performance.now()
    stallMs = Math.max(stallMs, now - last - tickMs)
    last = now
  }
  const timer = setInterval(tick, tickMs)
  try {
    const result = await work()
    tick()
    return { result, stallMs }
  } finally {
    clearInterval(timer)
  }
}
