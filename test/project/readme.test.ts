/** The README's example is run as it stands there, and its commands are those of package.json and CI. */
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { generateMasterKey } from '../../src/index.js'
import { runKeystore } from '../support/command.js'
import { dialects, type FreshDatabase, freshDatabase, temporaryFolder } from '../support/databases.js'
import { codeBlocks } from '../support/documents.js'
import { linkPackages } from '../support/host-project.js'

const readme = readFileSync('README.md', 'utf8')
const blocks = (language: string) => codeBlocks(readme, language)

describe.each(dialects)('the example on %s', (dialect) => {
  let folder: ReturnType<typeof temporaryFolder>
  let database: FreshDatabase
  beforeEach(async () => {
    folder = temporaryFolder()
    database = await freshDatabase(dialect)
  })
  afterEach(async () => {
    await database.remove()
    folder.remove()
  })

  it('runs as it stands there and gives the secret back', () => {
    const [example = ''] = blocks('ts')
    expect(example.split('\n').filter((line) => line.trim() !== '').length).toBeLessThanOrEqual(10)
    linkPackages(folder.path)
    writeFileSync(
      join(folder.path, 'example.mjs'),
      `${example}\nconsole.log(JSON.stringify({ token, apiKey }))\n`,
    )
    const env = { ...process.env, KEYSTORE_URL: database.url, API_KEY_MASTER_KEY: generateMasterKey() }
    const output = execFileSync(process.execPath, ['example.mjs'], {
      cwd: folder.path,
      env,
      encoding: 'utf8',
    })
    const { token, apiKey } = JSON.parse(output)
    expect(token).toMatch(/^v3:/)
    expect(apiKey).toBe('sk-proj-…')
  })
})

describe('the commands', () => {
  it('are the two that a newcomer needs, and CI runs the second', () => {
    expect(blocks('sh').map((block) => block.trim())).toEqual(
      expect.arrayContaining(['npm ci && npm start', 'npm ci && npm test']),
    )
    expect(readFileSync('.ci/run', 'utf8')).toContain("grep -m 1 -x 'npm ci && npm test' README.md")
  })

  it('are all listed', () => {
    const { stdout } = runKeystore('.', ['--help'])
    const commands = [...stdout.matchAll(/^ {2}([a-z-]+) \[?(?:options|file)/gm)].map((match) => match[1])
    expect(commands.length).toBeGreaterThan(10)
    for (const command of commands) expect(readme).toMatch(new RegExp(`^keystore ${command} `, 'm'))
  })

  it('names every type of event', () => {
    const events = readFileSync('src/events.ts', 'utf8').match(/(?<=readonly type: ')\w+/g) ?? []
    expect(events.length).toBeGreaterThan(5)
    for (const type of events) expect(readme).toContain(`\`${type}\``)
  })

  it('names every error code of the library', () => {
    const codes = readFileSync('src/errors.ts', 'utf8').match(/(?<=\| ')ERR_\w+/g) ?? []
    expect(codes.length).toBeGreaterThan(10)
    for (const code of codes) expect(readme).toContain(`\`${code}\``)
  })
})
