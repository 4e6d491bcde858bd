/** What a release needs: each dependency has a reason, and the publishing workflow's check finds what does not fit together. */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { temporaryFolder } from '../support/databases.js'

const manifest = JSON.parse(readFileSync('package.json', 'utf8'))

describe('docs/DEPENDENCIES.md', () => {
  const page = readFileSync('docs/DEPENDENCIES.md', 'utf8')
  const [, installed = '', brought = '', development = ''] = page.split(/^## /m)
  const namesIn = (section: string) =>
    [...section.matchAll(/^\| ([^|]+) \|/gm)]
      .flatMap(([, cell = '']) => cell.split(',').map((name) => name.trim()))
      .filter((name) => !/^(package|---)$/.test(name))

  it('has a reason for each dependency, and names none that is gone', () => {
    expect(namesIn(installed).sort()).toEqual(Object.keys(manifest.dependencies).sort())
    expect(namesIn(brought).sort()).toEqual(Object.keys(manifest.peerDependencies).sort())
    const peers = new Set(Object.keys(manifest.peerDependencies))
    expect(namesIn(development).sort()).toEqual(
      Object.keys(manifest.devDependencies)
        .filter((name) => !peers.has(name))
        .sort(),
    )
  })

  it('names the licence of each, and each allows the use under MIT', () => {
    const rows = [...`${installed}${brought}`.matchAll(/^\| (\S+) \| (\S+) \|/gm)].slice(1)
    for (const [, name = '', licence = ''] of rows) {
      if (name === 'package' || name === '---' || !existsSync(join('node_modules', name))) continue
      expect(JSON.parse(readFileSync(join('node_modules', name, 'package.json'), 'utf8')).license).toBe(
        licence,
      )
      expect(['MIT', 'ISC', 'Apache-2.0', 'BlueOak-1.0.0', 'Unlicense']).toContain(licence)
    }
  })
})

describe('the check of a release', () => {
  const URL_OF_REPOSITORY = manifest.repository.url.replace(/^git\+|\.git$/g, '')
  let folder: ReturnType<typeof temporaryFolder>
  beforeEach(() => {
    folder = temporaryFolder()
    write({
      version: '1.2.3',
      changelog:
        '## [Unreleased]\n\n## [1.2.3] - 2027-01-02\n\n### Added\n\n- This.\n\n## [1.2.2] - 2027-01-01\n',
    })
  })
  afterEach(() => folder.remove())

  function write({ version, changelog }: { version: string; changelog: string }): void {
    writeFileSync(join(folder.path, 'package.json'), JSON.stringify({ ...manifest, version }))
    writeFileSync(join(folder.path, 'package-lock.json'), JSON.stringify({ version: '1.2.3' }))
    writeFileSync(join(folder.path, 'CHANGELOG.md'), changelog)
  }

  const check = (env: Record<string, string>, ...options: string[]) =>
    spawnSync(process.execPath, ['scripts/check-release.mjs', '--root', folder.path, ...options], {
      env: { ...process.env, TAG: 'v1.2.3', REPOSITORY: URL_OF_REPOSITORY, ...env },
      encoding: 'utf8',
    })

  it('passes what fits together, and prints what changed in it', () => {
    expect(check({}, '--notes')).toMatchObject({ status: 0, stderr: '', stdout: '### Added\n\n- This.\n' })
  })

  it('names each thing that does not', () => {
    expect(check({ TAG: 'v1.2.4' })).toMatchObject({
      status: 1,
      stderr: expect.stringContaining('The tag is v1.2.4'),
    })
    expect(check({ REPOSITORY: 'https://github.com/somebody/fork' }).stderr).toContain('repository.url')
    write({ version: '1.2.4', changelog: '## [Unreleased]\n\n- Left.\n' })
    const { stderr } = check({ TAG: 'v1.2.4' })
    expect(stderr).toContain('package-lock.json has version 1.2.3')
    expect(stderr).toContain('no section [1.2.4]')
    expect(stderr).toContain('changes under [Unreleased]')
  })
})
