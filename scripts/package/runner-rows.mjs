// Rows of the packaging matrix: test runners of an application.
import { DRIVERS, PACKAGE } from './project.mjs'

const SUITE = `
import { EnvelopeCrypto, KeystoreError, generateMasterKey, localMasterKey } from '${PACKAGE}'
import { sqliteKeyStore } from '${PACKAGE}/sqlite'

test('a secret comes back, and what is wrong is a KeystoreError', async () => {
  const store = sqliteKeyStore({ path: ':memory:' })
  const envelope = await EnvelopeCrypto.open({ store, masterKeys: localMasterKey(generateMasterKey()) })
  const token = await envelope.encrypt('alice', 'sk-1')
  expect(await envelope.decrypt('alice', token)).toBe('sk-1')
  await expect(envelope.decrypt('bob', token)).rejects.toThrow(KeystoreError)
  expect((await store.ready()).applied).not.toHaveLength(0)
  await envelope.close()
})
`
/** What docs/BUNDLERS.md says that Jest takes. */
const JEST_CONFIG = 'export default { testEnvironment: "node", transform: {} }\n'
const JEST_ENVIRONMENT = { NODE_OPTIONS: '--experimental-vm-modules' }

export const runnerRows = [
  ...['29', '30'].map((version) => ({
    row: `Jest ${version} with \`--experimental-vm-modules\``,
    async run(project) {
      project.install(...DRIVERS.sqlite, `jest@${version}`)
      project.write('jest.config.js', JEST_CONFIG)
      project.write('token.test.js', SUITE)
      project.run(project.bin('jest'), ['--ci'], JEST_ENVIRONMENT)
      return [project.version('jest')]
    },
  })),
  {
    row: 'Vitest',
    async run(project) {
      project.install(...DRIVERS.sqlite, 'vitest@4')
      project.write('token.test.js', `import { expect, test } from 'vitest'\n${SUITE}`)
      project.run(project.bin('vitest'), ['run'])
      return [project.version('vitest')]
    },
  },
]
