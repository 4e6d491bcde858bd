/** The service and the long operations on every store of the library, while its calls fail, come late, lose answers or happen twice. */
import { describe, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { openKeyStore } from '../../src/adapters/open.js'
import type { KeyStore } from '../../src/index.js'
import * as library from '../../src/index.js'
import { testKeyStoreFaults } from '../../src/testing/index.js'
import { TIMEOUT_MS } from '../support/child-kills.js'
import { dialects, freshDatabase, isChosen } from '../support/databases.js'
import { slow } from '../support/slow.js'
import { storeWithout } from '../support/store-doubles.js'

const { FAULT_SEED } = process.env
const runner = { describe, it: (name: string, body: () => Promise<void>) => it(name, body, TIMEOUT_MS) }
/** FAULT_SEED=… npx vitest run … repeats a run that failed. */
const optionsFor = (runs: number) => ({
  runs: slow ? runs * 100 : runs,
  ...(FAULT_SEED === undefined ? {} : { seed: Number(FAULT_SEED) }),
})

describe.runIf(isChosen('memory'))('in memory', () => {
  const subject = (name: string, wrapped = (store: KeyStore) => store) => ({
    name,
    async open() {
      const store = memoryKeyStore()
      return { store: wrapped(store), close: () => store.close() }
    },
  })
  testKeyStoreFaults(runner, subject('memory'), library, optionsFor(3))
  testKeyStoreFaults(
    runner,
    subject('memory, which announces nothing', (store) => storeWithout(store, 'changes')),
    library,
    optionsFor(3),
  )
})

describe.each(dialects)('on %s', (dialect) => {
  testKeyStoreFaults(
    runner,
    {
      name: dialect,
      async open() {
        const database = await freshDatabase(dialect)
        const open = () => openKeyStore(database.url)
        const store = await open()
        return {
          store,
          reopen: open,
          async close() {
            await store.close()
            await database.remove()
          },
        }
      },
    },
    library,
    optionsFor(1),
  )
})
