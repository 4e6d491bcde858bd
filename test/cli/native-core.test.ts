/** What `doctor` says of the native core: nothing of one that is absent or turned off, and why one that is installed is not in use. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import type { VerifyReport } from '../../src/index.js'
import { runKeystore } from '../support/command.js'
import { temporaryFolder } from '../support/databases.js'

/** Has Node.js find another package under the name, or none. */
const FINDS = `
  const Module = require('node:module')
  const resolve = Module._resolveFilename
  Module._resolveFilename = function (name, ...more) {
    if (name !== '@drizzle-keystore/native') return resolve.call(this, name, ...more)
    if (process.env.FOUND === undefined) throw new Error('not found')
    return process.env.FOUND
  }`

it('warns of one that is installed and cannot be used', () => {
  const folder = temporaryFolder()
  try {
    const at = (name: string) => join(folder.path, name)
    writeFileSync(at('finds.cjs'), FINDS)
    writeFileSync(
      at('broken.cjs'),
      "throw Object.assign(new Error('no such file'), { code: 'ERR_DLOPEN_FAILED' })",
    )
    const findings = (FOUND: string | undefined, KEYSTORE_NATIVE = '1') => {
      const env = { FOUND, KEYSTORE_NATIVE, NODE_OPTIONS: `--require ${at('finds.cjs')}` }
      const { status, stdout } = runKeystore(folder.path, ['doctor', '--json'], { env })
      const report = JSON.parse(stdout) as VerifyReport
      return { status, found: report.findings.filter(({ kind }) => kind === 'nativeCore') }
    }
    runKeystore(folder.path, ['init'])
    expect(findings(undefined)).toEqual({ status: 0, found: [] })
    expect(findings(at('broken.cjs'), '0')).toEqual({ status: 0, found: [] })
    const reason =
      'JavaScript encrypts and decrypts instead of the native core, which takes more time: @drizzle-keystore/native cannot be loaded ' +
      '(ERR_DLOPEN_FAILED): install it anew, for this platform (npm rebuild @drizzle-keystore/native)'
    const warning = { severity: 'warning', kind: 'nativeCore', reason }
    expect(findings(at('broken.cjs'))).toEqual({ status: 0, found: [expect.objectContaining(warning)] })
  } finally {
    folder.remove()
  }
})
