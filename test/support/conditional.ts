/** Tests that cannot run everywhere: the reporter lists those that are skipped, and why. */
import { describe, it } from 'vitest'

declare module 'vitest' {
  interface TaskMeta {
    skipReason?: string
  }
}

/** @param reason why it is skipped where `condition` does not hold */
export function itIf(condition: boolean, reason: string) {
  return (title: string, run: () => Promise<void> | void) => it(title, optionsFor(condition, reason), run)
}

export function describeIf(condition: boolean, reason: string) {
  return (title: string, run: () => void) => describe(title, optionsFor(condition, reason), run)
}

function optionsFor(condition: boolean, skipReason: string) {
  return condition ? {} : { skip: true, meta: { skipReason } }
}
