// Writes docs/BENCHMARKS.md and the plots in docs/benchmarks/ from the results there: node bench/report.mjs
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { asMarkdown, machineLine, wantedTable } from './markdown.mjs'
import { PARTS } from './parts.mjs'
import { barPlots } from './plots.mjs'

const docs = new URL('../docs/', import.meta.url)
const folder = new URL('benchmarks/', docs)

const files = readdirSync(folder).toSorted()
for (const file of files.filter((name) => name.endsWith('.svg'))) rmSync(new URL(file, folder))
const results = files
  .filter((name) => name.endsWith('.json'))
  .map((name) => [name.replace('.json', ''), JSON.parse(readFileSync(new URL(name, folder), 'utf8'))])

const chapters = results.map(([name, { machine, parts }]) => {
  const title = name.replace('node-', 'Node ')
  return [
    `## ${title}`,
    machineLine(machine),
    '### What was wanted',
    wantedTable(parts),
    ...PARTS.filter((part) => part in parts).map((part) =>
      [asMarkdown(parts[part]), plotOf(name, part, parts[part])].join('\n\n'),
    ),
  ].join('\n\n')
})

const notReached = readFileSync(new URL('not-reached.md', import.meta.url), 'utf8')

const head = `# Benchmarks

\`npm run bench\` writes this page; do not edit it. \`bench/README.md\` in the repository says how it measures.

Compare ratios, not times: times differ from machine to machine, and on this machine from minute to minute. Each ratio comes from one run. The candidates
ran in turn, a few milliseconds each, round by round. Ratios are of processor time where a table has µs of CPU and no database server works beside it, else of wall time. The tables show the median of the rounds' ratios and, in brackets, their tenth and ninetieth percentile.

## Not reached, and why

${notReached}`

writeFileSync(
  new URL('BENCHMARKS.md', docs),
  `${[head, ...chapters]
    .join('\n\n')
    .replace(/\n{3,}/g, '\n\n')
    .trimEnd()}\n`,
)

/** @returns Markdown that shows it */
function plotOf(name, part, { title, groups }) {
  const rows = groups.flatMap((group) => group.rows)
  const unit = rows.some(({ bytes }) => bytes !== undefined) ? 'bytes' : 'µs'
  const plots = groups
    .map((group) => ({
      title: group.group,
      bars: group.rows
        .filter(({ micros, bytes }) => (micros ?? bytes) !== undefined)
        .map(({ name, micros, bytes }) => ({ name, value: micros ?? bytes, isOurs: isOurs(name) })),
    }))
    // Counts stand in the table alone.
    .filter(({ bars }) => bars.length > 0)
  const file = `${name}-${part}.svg`
  writeFileSync(new URL(file, folder), barPlots(plots, unit))
  return `![${title}](benchmarks/${file})`
}

/** Not the baselines, nor the peers, whose names have their versions. */
function isOurs(name) {
  return !/ \d+\.\d+\.\d+$|node:crypto|one query|one by one/.test(name)
}
