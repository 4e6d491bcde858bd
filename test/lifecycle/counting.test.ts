/** All long work says that it counts before it shows how much there is to do. */
import { randomBytes } from 'node:crypto'
import { expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import {
  copyKeys,
  type LongWorkOptions,
  localMasterKey,
  type Progress,
  pruneWhere,
  rewrapAll,
  rotateWhere,
  verifyAll,
} from '../../src/index.js'
import { fill } from '../support/rows.js'
import { userIds } from '../support/users.js'

const masterKeys = localMasterKey(randomBytes(32))
const store = memoryKeyStore()

const works: Record<string, (options: LongWorkOptions) => Promise<unknown>> = {
  rewrapAll: (options) => rewrapAll({ ...options, store, masterKeys }),
  verifyAll: (options) => verifyAll({ ...options, store, masterKeys }),
  rotateWhere: (options) => rotateWhere({ ...options, store, masterKeys, olderThanMs: 1e9 }),
  pruneWhere: (options) =>
    pruneWhere({ ...options, store, madeBefore: new Date(0), tokensReencrypted: true }),
  copyKeys: (options) => copyKeys({ ...options, from: store, to: memoryKeyStore() }),
}

it.each(Object.entries(works))('%s', async (_, work) => {
  await fill(store, masterKeys, userIds(10))
  const progress: Progress[] = []
  await work({ onProgress: (now) => void progress.push(now) })
  expect(progress[0]).toEqual({ phase: 'counting', done: 0, total: 0, rate: 0, etaMs: null })
})
