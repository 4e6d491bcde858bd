// The packaging matrix: packs the package, installs it in an empty project for each row, and runs it there.
//
//   npm run test:package                        all rows
//   npm run test:package -- --ci                the first rows, as CI runs them
//   npm run test:package -- --rows 'esbuild|Next'   those whose name matches
//   npm run test:package -- --write             writes the table into docs/BUNDLERS.md
//
// Tools are installed by npm, from the registry that it is configured with. TEST_POSTGRES_URL names a server to use instead of an own one.
// Exits with 1 if a row failed.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { startEmbeddedPostgres } from '../test/support/embedded-postgres.mjs'
import { bundlerRows } from './package/bundler-rows.mjs'
import { checkRows } from './package/check-rows.mjs'
import { nodeRows } from './package/node-rows.mjs'
import { Project, root } from './package/project.mjs'
import { runnerRows } from './package/runner-rows.mjs'

const DOCUMENT = join(root, 'docs', 'BUNDLERS.md')

const { values } = parseArgs({
  options: { ci: { type: 'boolean' }, rows: { type: 'string' }, write: { type: 'boolean' } },
})
const wanted = [...nodeRows, ...bundlerRows, ...runnerRows, ...checkRows].filter(
  ({ row, ci }) =>
    (!values.ci || ci) && (values.rows === undefined || new RegExp(values.rows, 'i').test(row)),
)
const folder = mkdtempSync(join(tmpdir(), 'keystore-packed-'))
const server = process.env.TEST_POSTGRES_URL
  ? null
  : await startEmbeddedPostgres({ initdbFlags: ['--no-sync'], otherServer: 'Set TEST_POSTGRES_URL' })
const results = []
try {
  const context = { tarball: pack(), postgresUrl: process.env.TEST_POSTGRES_URL || server.url }
  for (const row of wanted) results.push(await runRow(row, context))
} finally {
  rmSync(folder, { recursive: true, force: true })
  await server?.remove()
}
const table = tableOf(results)
console.log(`\n${table}`)
if (values.write) writeTable()
if (results.some(({ failure }) => failure !== null)) process.exitCode = 1

/** As `npm publish` does, so that `prepack` builds dist/. @returns the file */
function pack() {
  const args = ['pack', '--json', '--silent', '--pack-destination', folder]
  const [{ filename }] = JSON.parse(execFileSync('npm', args, { cwd: root, encoding: 'utf8' }))
  return join(folder, filename)
}

async function runRow({ row, run }, context) {
  const project = new Project(context)
  const started = performance.now()
  let failure = null
  let versions = []
  try {
    versions = await run(project)
  } catch (error) {
    failure = error
    console.log(`${row}: ${error.message}`)
  }
  project.remove()
  const seconds = Math.round((performance.now() - started) / 1000)
  console.log(`${row}: ${failure === null ? 'passed' : 'FAILED'}, ${seconds} s`)
  return { row, versions, seconds, failure }
}

function tableOf(rows) {
  const lines = rows.map(
    ({ row, versions, seconds, failure }) =>
      `| ${row} | ${versions.join(', ')} | ${failure === null ? 'passed' : 'FAILED'} | ${seconds} |`,
  )
  return ['| row | versions | result | seconds |', '| --- | --- | --- | --- |', ...lines].join('\n')
}

/** Between the two marks of the document. */
function writeTable() {
  const text = readFileSync(DOCUMENT, 'utf8')
  const [begin, end] = ['<!-- begin: npm run test:package -->', '<!-- end -->']
  const parts = [text.indexOf(begin), text.indexOf(end)]
  if (parts.includes(-1)) throw new Error(`docs/BUNDLERS.md lacks ${begin} or ${end}`)
  const date = new Date().toISOString().slice(0, 10)
  const made = `${begin}\nOn ${date}, with Node.js ${process.versions.node}:\n\n${table}\n`
  writeFileSync(DOCUMENT, text.slice(0, parts[0]) + made + text.slice(parts[1]))
}
