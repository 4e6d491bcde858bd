/** masterKeyring: which keys it has, how they are found, and what it refuses. */
import { expect, it } from 'vitest'
import { generateMasterKey, localMasterKey, type MasterKey, masterKeyring } from '../../src/index.js'

const [first, second] = [generateMasterKey(), generateMasterKey()].map(localMasterKey) as [
  ReturnType<typeof localMasterKey>,
  ReturnType<typeof localMasterKey>,
]
const remote: MasterKey = { id: 'kms:1', wrap: (key) => key, unwrap: (key) => key }

it('refuses options that there are not: without tenantOf users would come under the primary', () => {
  const keys = { primary: first, tenantof: () => 'acme' }
  expect(() => masterKeyring(keys)).toThrow(
    '"tenantof" is no option of masterKeyring: did you mean tenantOf?',
  )
})

it('has the primary first, and each key once', () => {
  const keyring = masterKeyring({ primary: first, previous: [second, first, remote, second] })
  expect(keyring.all).toEqual([first, second, remote])
  expect(masterKeyring({ primary: first }).previous).toEqual([])
})

it('finds a key by its id in either wrap format, and null for an id that it does not have', () => {
  const keyring = masterKeyring({ primary: remote, previous: [first] })
  expect(keyring.find('kms:1')).toBe(remote)
  expect(keyring.find(first.id)).toBe(first)
  expect(keyring.find(first.v2Id)).toBe(first)
  for (const id of [second.id, second.v2Id, '', 'kms:2', 'undefined']) expect(keyring.find(id)).toBeNull()
  expect(keyring.local).toEqual([first])
})

it.each<[string, unknown]>([
  ['the text of a key as primary', { primary: generateMasterKey() }],
  ['the bytes of a key as primary', { primary: Buffer.from(generateMasterKey()) }],
  ['no primary', {}],
  ['the text of a key among the previous', { primary: first, previous: [generateMasterKey()] }],
  ['the text of a key as the whole', generateMasterKey()],
])('refuses %s with ERR_INVALID_ARGUMENT, without showing it', (_, keys) => {
  expect(() => masterKeyring(keys as { primary: MasterKey })).toThrow(
    expect.objectContaining({ code: 'ERR_INVALID_ARGUMENT' }),
  )
})
