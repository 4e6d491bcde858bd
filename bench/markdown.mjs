// Results as Markdown, for the terminal and for docs/BENCHMARKS.md.
import { markdownTable } from 'markdown-table'

export function asMarkdown({ title, about, groups }) {
  return [`### ${title}`, about, ...groups.map(({ group, rows }) => `${group}\n\n${tableOf(rows)}`), ''].join(
    '\n\n',
  )
}

function tableOf(rows) {
  const extra = [...new Set(rows.flatMap(({ more }) => Object.keys(more ?? {})))]
  const columns = [
    ['', ({ name }) => name],
    ['µs', ({ micros }) => (micros === undefined ? '' : figure(micros))],
    ['µs of CPU', ({ cpuMicros }) => (cpuMicros === undefined ? '' : figure(cpuMicros))],
    ['a second', ({ micros }) => (micros === undefined ? '' : Math.round(1e6 / micros).toLocaleString('en'))],
    ['bytes', ({ bytes }) => (bytes === undefined ? '' : Math.round(bytes).toLocaleString('en'))],
    ['ratio (spread)', ({ ratio }) => (ratio === undefined ? '' : ratioText(ratio))],
    ['to', ({ against }) => against ?? ''],
    ...extra.map((name) => [name, ({ more }) => more?.[name] ?? '']),
  ].filter(([, cell]) => rows.some((row) => cell(row) !== ''))
  return markdownTable(
    [columns.map(([name]) => name), ...rows.map((row) => columns.map(([, cell]) => cell(row)))],
    {
      align: columns.map((_, index) => (index === 0 ? 'l' : 'r')),
    },
  )
}

/** What machine.mjs found, in a line. */
export function machineLine(machine) {
  return Object.entries(machine)
    .map(([what, value]) => `${what} ${value}`)
    .join(' · ')
}

/** What was wanted, and whether it was reached. */
export function wantedTable(parts) {
  const rows = Object.values(parts).flatMap(({ title, groups }) =>
    groups.flatMap(({ group, rows }) =>
      rows
        .filter(({ atMost, atLeast }) => atMost !== undefined || atLeast !== undefined)
        .map(({ name, against, ratio, atMost, atLeast }) => [
          `${title}: ${group}`,
          `${name} to ${against}`,
          atMost === undefined ? `> ${atLeast}` : `≤ ${atMost}`,
          ratioText(ratio),
          isReached({ ratio, atMost, atLeast }) ? 'yes' : '**no**',
        ]),
    ),
  )
  return markdownTable([['', 'ratio', 'wanted', 'measured (spread)', 'reached'], ...rows], {
    align: ['l', 'l', 'r', 'r', 'l'],
  })
}

export function isReached({ ratio, atMost, atLeast }) {
  return atMost === undefined ? ratio.median > atLeast : ratio.median <= atMost
}

function ratioText({ median, low, high }) {
  return `${figure(median)} (${figure(low)}–${figure(high)})`
}

/** Three digits. */
function figure(number) {
  if (number >= 100) return Math.round(number).toLocaleString('en')
  return number.toPrecision(3).replace(/^(0\.0*\d{2})\d$/, '$1')
}
