/** The code blocks of a document, and shell blocks run as they stand there. */
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { delimiter, join, resolve } from 'node:path'
import { expect } from 'vitest'
import { cleanEnvironment } from './command.js'

/** The code blocks of one language, without their indentation. */
export function codeBlocks(markdown: string, language: string): string[] {
  return [...markdown.matchAll(new RegExp(`^( *)\`\`\`${language}\n(.*?)^\\1\`\`\`$`, 'gms'))].map(
    ([, indentation = '', code = '']) => code.replaceAll(new RegExp(`^${indentation}`, 'gm'), ''),
  )
}

/**
 * Runs shell blocks one after the other in one shell, which has `keystore` on its path, and `npx keystore`. Expects all to succeed.
 *
 * @returns what they printed
 */
export function runShellBlocks(folder: string, blocks: readonly string[], env: NodeJS.ProcessEnv): string {
  const bin = join(folder, 'bin')
  mkdirSync(bin)
  const shim = `#!/bin/sh\nexec '${process.execPath}' '${resolve('dist/cli/main.js')}' "$@"\n`
  writeFileSync(join(bin, 'keystore'), shim, { mode: 0o755 })
  // What npm would do in a project that has installed the package.
  writeFileSync(join(bin, 'npx'), '#!/bin/sh\nexec "$@"\n', { mode: 0o755 })
  const script = blocks.map((block, index) => `echo '# block ${index + 1}' >&2\n${block}`).join('')
  const run = spawnSync('bash', ['-eu', '-c', script], {
    cwd: folder,
    env: cleanEnvironment({ ...env, PATH: `${bin}${delimiter}${process.env.PATH}` }),
    input: '',
    encoding: 'utf8',
  })
  expect({ status: run.status, output: run.status === 0 ? '' : run.stdout + run.stderr }).toEqual({
    status: 0,
    output: '',
  })
  return run.stdout
}
