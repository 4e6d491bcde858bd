/** docs/BUNDLERS.md on CommonJS files of TypeScript: what compiles, what does not, and that it runs. */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { generateMasterKey } from '../../src/index.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { cleanEnvironment } from '../support/command.js'
import { codeBlocks } from '../support/documents.js'
import { hostProject } from '../support/host-project.js'

const STATIC = `
  import { EnvelopeCrypto, masterKeysFromEnv } from 'drizzle-keystore'
  import { sqliteKeyStore } from 'drizzle-keystore/sqlite'
  export const openEnvelope = async (): Promise<EnvelopeCrypto> =>
    EnvelopeCrypto.open({ masterKeys: masterKeysFromEnv(), store: sqliteKeyStore({ path: 'keystore.db' }) })`
const [DYNAMIC = ''] = codeBlocks(readFileSync('docs/BUNDLERS.md', 'utf8'), 'ts')
const USE = `
  openEnvelope().then(async (envelope) => {
    console.log(await envelope.decrypt('alice', await envelope.encrypt('alice', 'ok')))
    await envelope.close()
  })`

describe('a .cts file', () => {
  const cleanups = cleanUpAfterEach()

  it.each([
    ['imports', STATIC, 'nodenext'],
    ['imports', STATIC, 'node20'],
    ['imports dynamically, as the guide has it,', DYNAMIC, 'node16'],
    ['imports dynamically, as the guide has it,', DYNAMIC, 'nodenext'],
  ])('%s with module %3$s, and runs', (_, code, module) => {
    const project = hostProject({ 'main.cts': `${code}\n${USE}` }, { module })
    cleanups.add(project.remove)
    const output = execFileSync(process.execPath, ['main.cjs'], {
      cwd: project.path,
      env: cleanEnvironment({ API_KEY_MASTER_KEY: generateMasterKey() }),
      encoding: 'utf8',
    })
    expect(output).toBe('ok\n')
  })

  it('that imports is refused with module node16, as the guide says', () => {
    expect(() => hostProject({ 'main.cts': STATIC }, { module: 'node16' })).toThrow('error TS1479')
  })
})
