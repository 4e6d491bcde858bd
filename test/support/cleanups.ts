/** Undoes after each test, or after all of them, what was made. */
import { afterAll, afterEach } from 'vitest'
import { type Dialect, freshDatabase, temporaryFolder } from './databases.js'

export interface Cleanups {
  /** Runs `cleanup` after the test, before those that were added earlier. */
  add(cleanup: () => unknown): void
  /** Closes something after the test. @returns it */
  closing<T extends { close(): unknown }>(thing: T): T
  /** Makes a fresh database, for one test. @returns its URL */
  database(dialect: Dialect): Promise<string>
  /** Makes a temporary folder, for one test. @returns its path */
  folder(): string
  /** Runs them now instead. */
  run(): Promise<void>
}

/** To be called once, in a `describe` or at the top of a file. */
export function cleanUpAfterEach(): Cleanups {
  return cleanUp(afterEach)
}

/** For what is made once, as by `beforeAll`, and that tests only read. */
export function cleanUpAfterAll(): Cleanups {
  return cleanUp(afterAll)
}

function cleanUp(after: typeof afterEach | typeof afterAll): Cleanups {
  const cleanups: (() => unknown)[] = []
  const add = (cleanup: () => unknown) => void cleanups.push(cleanup)
  const run = async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
  }
  after(run)
  return {
    add,
    run,
    closing(thing) {
      add(() => thing.close())
      return thing
    },
    async database(dialect) {
      const database = await freshDatabase(dialect)
      add(() => database.remove())
      return database.url
    },
    folder() {
      const folder = temporaryFolder()
      add(() => folder.remove())
      return folder.path
    },
  }
}
