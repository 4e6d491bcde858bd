/** The service and the long operations on every store of the library, while its calls fail, come late, lose answers or happen twice. */
import { describe, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { openKeyStore } from '../../src/adapters/open.js'
import * as library from '../../src/index.js'
import { testKeyStoreFaults } from '../../src/testing/index.js'
import { dialects, freshDatabase, isChosen } from '../support/databases.js'
import { slow } from '../support/slow.js'

const { FAULT_SEED } = process.env
/** FAULT_SEED=… npx vitest run … repeats a run that failed. */
const optionsFor = (runs: number) => ({
  runs: slow ? runs * 100 : runs,
  ...(FAULT_SEED === undefined ? {} : { seed: Number(FAULT_SEED) }),
})

describe.runIf(isChosen('memory'))('in memory', () => {
  testKeyStoreFaults(
    { describe, it },
    {
      name: 'memory',
      async open() {
        const store = memoryKeyStore()
        return { store, close: () => store.close() }
      },
    },
    library,
    optionsFor(3),
  )
})

describe.each(dialects)('on %s', (dialect) => {
  testKeyStoreFaults(
    { describe, it },
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
