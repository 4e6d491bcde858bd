/** The service and the long operations on every store of the library, while its calls fail, come late, lose answers or happen twice. */
import { describe, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { openKeyStore } from '../../src/adapters/open.js'
import type { KeyStore } from '../../src/index.js'
import * as library from '../../src/index.js'
import { testKeyStoreFaults } from '../../src/testing/index.js'
import { dialects, freshDatabase, isChosen } from '../support/databases.js'
import { slow } from '../support/slow.js'
import { storeWithout } from '../support/store-doubles.js'

const { FAULT_SEED } = process.env
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
  testKeyStoreFaults({ describe, it }, subject('memory'), library, optionsFor(3))
  testKeyStoreFaults(
    { describe, it },
    subject('memory, which announces nothing', (store) => storeWithout(store, 'changes')),
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
