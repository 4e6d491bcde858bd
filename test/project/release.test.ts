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

describe('the publishing workflow', () => {
  const workflow = readFileSync('.github/workflows/publish.yml', 'utf8')
  const jobs = new Map(
    workflow
      .slice(workflow.indexOf('\njobs:\n'))
      // Comments, which say what does not happen, are none of the steps.
      .replaceAll(/^ *#.*\n/gm, '')
      .split(/^ {2}(?=[a-z]+:$)/m)
      .slice(1)
      .map((job) => [job.slice(0, job.indexOf(':')), job]),
  )
  const jobOf = (name: string) => jobs.get(name) ?? ''

  it('runs no code of other packages where it may publish: install scripts would have the right, too', () => {
    expect([...jobs.keys()]).toEqual(['check', 'pack', 'publish'])
    const privileged = [...jobs].filter(([, job]) => /id-token|contents: write/.test(job))
    expect(privileged.map(([name]) => name)).toEqual(['publish'])
    expect(jobOf('publish')).not.toMatch(/npm (ci|install|i|exec|run)\b|npx|checkout|node /)
    expect(jobOf('publish')).toMatch(/npm publish \.\/release\/drizzle-keystore-\*\.tgz --provenance/)
    expect(jobOf('publish')).toContain('needs: pack')
  })

  it('makes what it publishes after all checks, where no install script runs', () => {
    expect(jobOf('pack')).toContain('needs: check')
    expect(jobOf('pack').match(/npm (ci|install).*/g)).toEqual(['npm ci --ignore-scripts'])
    expect(jobOf('pack')).toContain('npm pack --pack-destination release')
  })

  it('stops on a known vulnerability, as docs/DEPENDENCIES.md says', () => {
    expect(jobOf('check').match(/npm .*audit.*/g)).toEqual([
      'npm audit --omit=dev',
      'npm --prefix examples/byok-app audit --omit=dev',
      'npm --prefix site audit --audit-level=high',
    ])
  })
})
