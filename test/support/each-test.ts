/** What every test of a file has anew, under a name that is bound once. */
import { afterEach, beforeEach } from 'vitest'

/**
 * To be called where `beforeEach` may be: makes something before each test, and removes it afterwards. Hooks that follow may use it.
 *
 * @returns that of the running test
 */
export function ofEachTest<T extends { remove(): unknown }>(make: () => T | Promise<T>): T {
  let made: T
  beforeEach(async () => {
    made = await make()
  })
  afterEach(() => made.remove())
  return standIn(() => made)
}

/** An object that is, at each use, the one that `current` gives then. */
export function standIn<T extends object>(current: () => T): T {
  return new Proxy({} as T, {
    get(_, name) {
      const object = current()
      const value: unknown = Reflect.get(object, name)
      return typeof value === 'function' ? value.bind(object) : value
    },
    has: (_, name) => Reflect.has(current(), name),
  })
}
