// Rows of the packaging matrix: what tools say about the package, and its size.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { PACKAGE, root } from './project.mjs'

/**
 * The largest sizes of the core entry, minified by esbuild and compressed, in bytes: of what loads at once, without what is imported when it is
 * needed, such as the code of a key service. What an application loads that opens a service with a master key of the environment, lru-cache
 * included; and all that the entry exports, without lru-cache: nobody loads that, but it shows what an addition costs. Just above the sizes that
 * there are, so that no addition goes unnoticed.
 */
const LARGEST = { used: 42 * 1024, whole: 52 * 1024 }

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
        const output = ['--splitting', '--outdir=out', '--metafile=meta.json']
        project.run(project.bin('esbuild'), [...args, ...output])
        const bundle = loadedAtOnce(project, `${kind}.mjs`)
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

/** The output of esbuild that an entry loads at once: its own file, and those that it imports without waiting to need them. */
function loadedAtOnce(project, entry) {
  const { outputs } = JSON.parse(readFileSync(join(project.path, 'meta.json'), 'utf8'))
  const files = new Set(Object.keys(outputs).filter((file) => outputs[file].entryPoint === entry))
  for (const file of files)
    for (const { path, kind, external } of outputs[file].imports)
      if (!external && kind !== 'dynamic-import') files.add(path)
  return Buffer.concat([...files].map((file) => readFileSync(join(project.path, file))))
}

function kilobytes(bytes) {
  return `${(bytes / 1024).toFixed(1)} KB`
}
