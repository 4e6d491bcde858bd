// Rows of the packaging matrix: what tools say about the package, and its size.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { PACKAGE, root } from './project.mjs'

/**
 * The largest sizes of the core entry, minified by esbuild and compressed, in bytes. What an application bundles that opens a service with a
 * master key of the environment, lru-cache included; and all that the entry exports, without lru-cache: nobody bundles that, but it shows what
 * an addition costs.
 */
const LARGEST = { used: 30 * 1024, whole: 32 * 1024 }

const CORE = {
  used: {
    code: `import { EnvelopeCrypto, masterKeysFromEnv } from '${PACKAGE}'\nglobalThis.used = [EnvelopeCrypto, masterKeysFromEnv]\n`,
    options: [],
    name: 'an application with `EnvelopeCrypto` and `masterKeysFromEnv`, lru-cache included',
  },
  whole: {
    code: `export * from '${PACKAGE}'\n`,
    options: ['--external:lru-cache'],
    name: 'all exports, without lru-cache',
  },
}

export const checkRows = [
  {
    row: 'size of the core entry',
    async run(project) {
      project.install('esbuild@0.28')
      const sizes = Object.entries(CORE).map(([kind, { code, options, name }]) => {
        project.write(`${kind}.mjs`, code)
        const args = [`${kind}.mjs`, '--bundle', '--minify', '--platform=node', '--format=esm', ...options]
        project.run(project.bin('esbuild'), [...args, '--outfile=out.mjs'])
        const bundle = readFileSync(join(project.path, 'out.mjs'))
        const compressed = gzipSync(bundle, { level: 9 }).length
        const size = `${name}: ${kilobytes(bundle.length)} minified, ${kilobytes(compressed)} with gzip`
        if (compressed > LARGEST[kind])
          throw new Error(`${size}: more than the ${kilobytes(LARGEST[kind])} allowed`)
        return size
      })
      return [sizes.join('; ')]
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
