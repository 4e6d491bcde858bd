/** The first command in an empty project that has installed the package: nothing of this repository but what is packed. */
import { execFileSync } from 'node:child_process'
import { chmodSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { cleanEnvironment } from '../support/command.js'
import { temporaryFolder } from '../support/databases.js'

const root = join(import.meta.dirname, '..', '..')

it('npx keystore quickstart works there, and so does what it says next', () => {
  const folder = temporaryFolder()
  const run = (command: string, ...args: string[]) =>
    execFileSync(command, args, { cwd: folder.path, env: cleanEnvironment(), encoding: 'utf8' })
  try {
    run(process.execPath, join(root, 'scripts', 'check-package.mjs'), '--into', folder.path)
    linkCommand(folder.path)
    const stdout = run('npx', '--offline', 'keystore', 'quickstart')
    expect(stdout).toContain('20 secrets of 8 users encrypted into data/sealed.jsonl')
    const commands = stdout.match(/^ {2}.*npx keystore .+$/gm) ?? []
    expect(commands.map((command) => run('sh', '-c', command))).toEqual([
      '',
      'my secret',
      expect.stringMatching(/│ live +│ 8 +│/),
    ])
    const [readme = ''] = stdout.match(/node_modules\/drizzle-keystore\/README\.md/) ?? []
    expect(readFileSync(join(folder.path, readme), 'utf8')).toContain('# drizzle-keystore')
  } finally {
    folder.remove()
  }
})

/** As `npm install` does. */
function linkCommand(folder: string): void {
  const modules = join(folder, 'node_modules')
  const name = 'drizzle-keystore'
  const { bin } = JSON.parse(readFileSync(join(modules, name, 'package.json'), 'utf8'))
  mkdirSync(join(modules, '.bin'))
  for (const [command, path] of Object.entries<string>(bin)) {
    symlinkSync(join('..', name, path), join(modules, '.bin', command))
    chmodSync(join(modules, name, path), 0o755)
  }
}
