/** The package of native/ as npm installs it: nothing that is missing on the machine fails the installation of an application. */
import { spawnSync } from 'node:child_process'
import { cpSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { expect, it } from 'vitest'
import { cleanUpAfterEach } from '../support/cleanups.js'

const cleanups = cleanUpAfterEach()
const manifest = JSON.parse(readFileSync('native/package.json', 'utf8'))

it('is of the same repository as the root', () => {
  const { homepage, bugs, repository } = JSON.parse(readFileSync('package.json', 'utf8'))
  expect(manifest).toMatchObject({ homepage, bugs, repository: { ...repository, directory: 'native' } })
})

it('its installation succeeds without a prebuilt addon and without any tool, and says what is not there', () => {
  expect(manifest.scripts.install).toBe('node install.js')
  const folder = cleanups.folder()
  for (const name of ['package.json', 'binding.gyp', 'complete.js', 'index.js', 'install.js', 'src'])
    cpSync(resolve('native', name), join(folder, name), { recursive: true })
  const { status, stderr } = spawnSync(process.execPath, ['install.js'], {
    cwd: folder,
    encoding: 'utf8',
    env: { PATH: '' },
  })
  expect(stderr).toContain('there is no prebuilt addon for')
  expect(status).toBe(0)
  const codeOf = "try { require('./index.js') } catch ({ code }) { process.stdout.write(code) }"
  expect(spawnSync(process.execPath, ['-e', codeOf], { cwd: folder, encoding: 'utf8' }).stdout).toBe(
    'ERR_ADDON_NOT_BUILT',
  )
})
