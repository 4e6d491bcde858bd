/** What `open` makes of a store that has not looked at everything. */
import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import { EnvelopeCrypto, type KeystoreEvent, localMasterKey, masterKeyring } from '../../src/index.js'
import { checkMasterKeys } from '../../src/master-keys/check.js'
import type { KeyRecord } from '../../src/table.js'
import { corrupted } from '../support/rows.js'
import { overriding } from '../support/store-doubles.js'

const right = localMasterKey(randomBytes(32))
const other = localMasterKey(randomBytes(32))

describe('a store that has not looked at everything', () => {
  /** A store with rows under both keys, and the calls for samples: whether each might leave something out. */
  async function partialStore(found: (row: KeyRecord) => KeyRecord[]) {
    const intact = memoryKeyStore()
    for (const masterKeys of [right, other]) {
      const options = { store: intact, masterKeys, allowUnknownMasterKeys: true, closeStore: false }
      await (await EnvelopeCrypto.open(options)).getOrCreateUserKey(masterKeys.id)
    }
    const calls: boolean[] = []
    const store = overriding(intact, {
      async sampleByKek(limit, options) {
        calls.push(options?.onUnsearched !== undefined)
        const rows = await intact.sampleByKek(limit)
        if (options?.onUnsearched === undefined) return rows
        options.onUnsearched({ kekId: null })
        return rows.flatMap(found)
      },
    })
    const events: KeystoreEvent[] = []
    const open = () =>
      EnvelopeCrypto.open({ store, masterKeys: right, onEvent: (event) => events.push(event) })
    return { store, open, calls, events }
  }

  it('is opened where a sample opens, and an event says so', async () => {
    const { open, calls, events } = await partialStore((row) => (row.kekId === right.id ? [row] : []))
    await open()
    expect(calls).toEqual([true])
    expect(events).toEqual([{ type: 'partlyChecked', kekIds: [null], others: false }])
  })

  it.each<[string, (row: KeyRecord) => KeyRecord[]]>([
    ['there is no sample', () => []],
    [
      'no sample opens',
      (row) => (row.kekId === right.id ? [{ ...row, encryptedKey: corrupted(row.encryptedKey) }] : []),
    ],
    ['all samples are under other master keys', (row) => (row.kekId === right.id ? [] : [row])],
  ])('is looked through to the end where %s', async (_, found) => {
    const { open, calls, events } = await partialStore(found)
    await expect(open()).rejects.toMatchObject({ code: 'ERR_UNKNOWN_MASTER_KEY' })
    expect(calls).toEqual([true, false])
    expect(events).toEqual([])
  })

  it('is looked through to the end at once for whoever has no hurry, as `keystore init`', async () => {
    const { store, calls } = await partialStore((row) => (row.kekId === right.id ? [row] : []))
    const options = { acceptKeys: ['v3'], allowUnknown: false, mints: true, wholly: true } as const
    const checked = checkMasterKeys(store, masterKeyring({ primary: right }), { ...options, emit: () => {} })
    await expect(checked).rejects.toMatchObject({ code: 'ERR_UNKNOWN_MASTER_KEY' })
    expect(calls).toEqual([false])
  })
})
