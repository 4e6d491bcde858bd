// Rows of the packaging matrix: bundlers and Next.js, in projects that have the driver of one dialect only.
import { freePort } from '../../test/support/embedded-postgres.mjs'
import { assertWorked, DRIVERS, Project, program } from './project.mjs'

const NODE = process.execPath

/**
 * @param tools what to install
 * @param build bundles `entry.mjs` in a project @returns the files to run
 */
function bundlerRow(row, tools, build) {
  return {
    row,
    async run(project) {
      for (const dialect of Object.keys(DRIVERS)) {
        const own = dialect === 'sqlite' ? project : new Project(project.context)
        try {
          own.install(...DRIVERS[dialect], ...tools)
          for (const entry of [dialect, 'open']) {
            own.write(`${entry}.mjs`, program(entry))
            for (const file of build(own, entry, dialect)) await own.check(dialect, [NODE, file])
          }
        } finally {
          if (own !== project) own.remove()
        }
      }
      return tools.map((spec) => project.version(spec.replace(/@[^@]+$/, '')))
    },
  }
}

export const bundlerRows = [
  bundlerRow(
    'esbuild, one file, `--external:better-sqlite3`',
    ['esbuild@0.28'],
    (project, entry, dialect) => {
      const esbuild = (format, file, ...flags) => {
        const args = [
          `${entry}.mjs`,
          '--bundle',
          '--platform=node',
          `--format=${format}`,
          `--outfile=${file}`,
        ]
        project.run(project.bin('esbuild'), [...args, '--log-level=warning', ...flags])
        return file
      }
      const external = '--external:better-sqlite3'
      return [
        esbuild('cjs', `out/${entry}.cjs`, external),
        esbuild('esm', `out/${entry}.mjs`, dialect === 'sqlite' ? external : '--external:pg'),
      ]
    },
  ),
  bundlerRow('rolldown, `external: better-sqlite3`', ['rolldown@1'], (project, entry) => {
    const args = ['--platform', 'node', '--format', 'esm', '--external', 'better-sqlite3']
    project.run(project.bin('rolldown'), [`${entry}.mjs`, ...args, '-d', `out/${entry}`])
    return [`out/${entry}/${entry}.js`]
  }),
  bundlerRow('Vite SSR, and with `noExternal: true`', ['vite@8'], (project, entry) => {
    project.write(
      'bundled.config.mjs',
      "export default { ssr: { noExternal: true, external: ['better-sqlite3'], target: 'node' } }\n",
    )
    const args = ['build', '--ssr', `${entry}.mjs`, '--logLevel', 'warn', '--outDir']
    project.run(project.bin('vite'), [...args, `out/${entry}`])
    project.run(project.bin('vite'), [...args, `bundled/${entry}`, '--config', 'bundled.config.mjs'])
    return [`out/${entry}/${entry}.js`, `bundled/${entry}/${entry}.js`]
  }),
  bundlerRow('webpack', ['webpack@5', 'webpack-cli@7'], (project, entry) => {
    const output = `{ path: import.meta.dirname + '/out', filename: '[name].cjs', chunkFilename: '${entry}.[id].cjs' }`
    project.write(
      'webpack.config.mjs',
      `export default { mode: 'production', target: 'node20', entry: { ${entry}: './${entry}.mjs' }, output: ${output} }\n`,
    )
    project.run(project.bin('webpack'), ['--config', 'webpack.config.mjs'])
    return [`out/${entry}.cjs`]
  }),
  ...['Turbopack', 'webpack'].map((bundler) => ({
    row: `Next.js route handler, built by ${bundler}`,
    async run(project) {
      for (const dialect of Object.keys(DRIVERS)) {
        const own = dialect === 'sqlite' ? project : new Project(project.context)
        try {
          own.install(...DRIVERS[dialect], 'next@16', 'react@19', 'react-dom@19')
          await buildNext(own, bundler, dialect)
        } finally {
          if (own !== project) own.remove()
        }
      }
      return [project.version('next')]
    },
  })),
]

async function buildNext(project, bundler, dialect) {
  for (const entry of [dialect, 'open'])
    project.write(
      `app/${entry}/route.js`,
      `${program(entry, 'handler')}\nexport const dynamic = 'force-dynamic'\nexport const GET = async () => Response.json(await main())\n`,
    )
  // It looks for a root in the folders above, too.
  project.write(
    'next.config.mjs',
    'export default { turbopack: { root: import.meta.dirname }, outputFileTracingRoot: import.meta.dirname }\n',
  )
  const next = project.bin('next')
  const env = { NEXT_TELEMETRY_DISABLED: '1', NODE_ENV: 'production' }
  const flag = bundler === 'webpack' ? '--webpack' : '--turbopack'
  project.run(next, ['build', flag], env)
  for (const entry of [dialect, 'open']) {
    const port = await freePort()
    const store = await project.storeEnvironment(dialect)
    const where = { port, path: `/${entry}`, env: { ...env, ...store } }
    assertWorked(await project.ask(next, ['start', '--port', String(port), '--hostname', '127.0.0.1'], where))
  }
}
