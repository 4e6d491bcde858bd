/** What commands say when a key service fails. No command can be given one yet, so that the parts that speak are called. */
import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { adviceFor } from '../../src/cli/advice.js'
import { printFailures } from '../../src/cli/row-problems.js'
import { MasterKeyError, type MasterKeyReason } from '../../src/index.js'
import { serviceError } from '../support/key-service.js'

const printed: string[] = []
beforeEach(() => {
  printed.length = 0
  vi.spyOn(console, 'log').mockImplementation((text: string) => void printed.push(text))
})
afterEach(() => vi.restoreAllMocks())

const AGAIN = 'Run the same command again when the master key answers'

it.each<[MasterKeyReason, boolean]>([
  ['unavailable', true],
  ['throttled', true],
  ['denied', false],
  ['notFound', false],
  ['wrongKey', false],
])('%s: running the command again is advised: %s, and a master key file never', (reason, isAdvised) => {
  const error = serviceError(reason)
  expect(adviceFor(error, 'encrypt') ?? '').toBe(isAdvised ? `${AGAIN}.` : '')
  const failure = { userId: 'alice', version: 1, kekId: 'service', code: error.code, reason: error.message }
  printFailures([{ ...failure, masterKeyReason: reason }], 1)
  expect(printed[0]).toContain(`The service says: ${reason} (ProviderSays, request id request-1)`)
  expect(printed.some((line) => line.includes(AGAIN))).toBe(isAdvised)
})

it('an error of a master key that was not given is advised on as before', () => {
  const error = new MasterKeyError('ERR_MASTER_KEY', 'No master key was given')
  expect(adviceFor(error, 'encrypt')).toContain('--master-key-file FILE')
})
