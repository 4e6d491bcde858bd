// Rows of the packaging matrix: what tools say about the package, and its size.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { PACKAGE, root } from './project.mjs'

/** Of the core entry, minified and compressed, without lru-cache, in bytes. */
const LARGEST_CORE = 30 * 1024

export const checkRows = [
  {
    row: 'size of the core entry',
    async run(project) {
      project.install('esbuild@0.28')
      project.write('core.mjs', `export * from '${PACKAGE}'\n`)
      const args = ['core.mjs', '--bundle', '--minify', '--platform=node', '--format=esm']
      project.run(project.bin('esbuild'), [...args, '--external:lru-cache', '--outfile=out.mjs'])
      const code = readFileSync(join(project.path, 'out.mjs'))
      const [minified, compressed] = [code.length, gzipSync(code, { level: 9 }).length]
      const sizes = `${kilobytes(minified)} minified, ${kilobytes(compressed)} with gzip`
      if (compressed > LARGEST_CORE)
        throw new Error(`${sizes}: more than the ${kilobytes(LARGEST_CORE)} allowed`)
      return [sizes]
    },
  },
  {
    row: 'publint',
    async run(project) {
      project.install('publint@0.3')
      const folder = join('node_modules', PACKAGE)
      const output = project.run(project.bin('publint'), [folder, '--strict', '--pack', 'false'])
      if (!output.includes('All good!')) throw new Error(output)
      return [project.version('publint')]
    },
  },
  {
    row: '`attw --profile esm-only`',
    async run(project) {
      project.install('@arethetypeswrong/cli@0.18')
      const file = project.tarballSpec.replace(/^file:/, '')
      project.run(project.bin('attw'), [file, '--profile', 'esm-only', '--no-color'])
      return [project.version('@arethetypeswrong/cli')]
    },
  },
  {
    row: 'knip',
    async run(project) {
      project.install('knip@6')
      // It loads drizzle.config.ts, which wants a dialect.
      const env = { DIALECT: 'sqlite' }
      project.run(
        project.bin('knip'),
        ['--directory', root, '--no-progress', '--treat-config-hints-as-errors'],
        env,
      )
      return [project.version('knip')]
    },
  },
]

function kilobytes(bytes) {
  return `${(bytes / 1024).toFixed(1)} KB`
}
