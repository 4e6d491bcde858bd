/** A point in a piece of work at which a test stops it, until the test lets it go on. */

/** Lets pending promises and callbacks of one turn of the event loop run. */
export const nextTurn = () => new Promise<void>((resolve) => setImmediate(resolve))

export interface Gate {
  /** Stops the next piece of work that comes by; later ones pass. */
  arm(): void
  /** Resolves when a piece of work has been stopped. */
  reached(): Promise<void>
  /** Lets it go on. */
  open(): void
  /** Called by the work itself: resolves at once unless the gate is armed. */
  wait(): Promise<void>
}

export function gate(): Gate {
  let armed = false
  let pass: () => void = () => undefined
  let reach: () => void = () => undefined
  let reached = Promise.resolve()
  return {
    arm() {
      armed = true
      reached = new Promise((resolve) => {
        reach = resolve
      })
    },
    reached: () => reached,
    open: () => pass(),
    async wait() {
      if (!armed) return
      armed = false
      const passing = new Promise<void>((resolve) => {
        pass = resolve
      })
      reach()
      await passing
    },
  }
}
