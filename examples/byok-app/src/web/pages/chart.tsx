/** The keys as charts, made here: no script draws them. Shapes have classes only, whose colours are in style.css. */
import type { DatedCensusRow } from 'drizzle-keystore'
import { numberText } from '../../number-text.js'
import { timeText } from './parts.js'

const WIDTH = 340
const ROW = 58
const LEFT = 4

export interface MasterKeyRows {
  readonly kekId: string
  readonly isPrimary: boolean
  readonly count: number
  /** By version of the data key, ascending. */
  readonly versions: readonly {
    readonly version: number
    readonly count: number
    readonly oldest: Date
    readonly newest: Date
  }[]
}

/** Live rows by master key, the primary first. */
export function byMasterKey(census: readonly DatedCensusRow[], primaryKekId: string): MasterKeyRows[] {
  const groups = new Map<string, DatedCensusRow[]>()
  for (const row of census) {
    if (row.shredded) continue
    const kekId = row.kekId ?? 'no id (format v2)'
    groups.set(kekId, [...(groups.get(kekId) ?? []), row])
  }
  return Array.from(groups, ([kekId, rows]) => ({
    kekId,
    isPrimary: kekId === primaryKekId,
    count: rows.reduce((sum, { count }) => sum + count, 0),
    versions: rows
      .map(({ version, count, oldest, newest }) => ({ version, count, oldest, newest }))
      .sort((a, b) => a.version - b.version),
  })).sort((a, b) => Number(b.isPrimary) - Number(a.isPrimary) || b.count - a.count)
}

/** `local:` and the first characters of the fingerprint: enough to tell a few apart. */
export const shortKekId = (kekId: string) => (kekId.length > 20 ? `${kekId.slice(0, 16)}…` : kekId)

const shadeOf = (version: number) => `shade-${Math.min(version, 4)}`

/** How many keys are under each master key, a bar for each with its versions in shades. */
export function CountChart({ groups }: { groups: readonly MasterKeyRows[] }) {
  const most = Math.max(1, ...groups.map(({ count }) => count))
  const width = WIDTH - 2 * LEFT
  return (
    <svg
      class="chart"
      viewBox={`0 0 ${WIDTH} ${groups.length * ROW}`}
      role="img"
      aria-labelledby="count-title"
    >
      <title id="count-title">
        {groups.map(({ kekId, count }) => `${counted(count)} under ${kekId}`).join('; ')}
      </title>
      {groups.map(({ kekId, isPrimary, count, versions }, at) => {
        let x = LEFT
        return (
          <g transform={`translate(0 ${at * ROW})`}>
            <text x={LEFT} y={18}>
              {shortKekId(kekId)}
              {isPrimary && <tspan class="faint"> wraps now</tspan>}
            </text>
            <text x={WIDTH - LEFT} y={18} text-anchor="end" class="number">
              {numberText(count)}
            </text>
            <rect class="track" x={LEFT} y={26} width={width} height={18} rx={4} />
            {versions.map(({ version, count: part }) => {
              const length = (part / most) * width
              const from = x
              x += length
              return (
                <rect
                  class={shadeOf(version)}
                  x={from}
                  y={26}
                  width={Math.max(length - 1, 1)}
                  height={18}
                  rx={Math.min(4, length / 2)}
                />
              )
            })}
          </g>
        )
      })}
    </svg>
  )
}

/** From when to when the keys of each master key and version were made. */
export function AgeChart({ groups, now = new Date() }: { groups: readonly MasterKeyRows[]; now?: Date }) {
  const lines = groups.flatMap(({ kekId, versions }) => versions.map((row) => ({ kekId, ...row })))
  const dated = lines.filter(({ oldest }) => !Number.isNaN(oldest.getTime()))
  const first = Math.min(now.getTime() - 60_000, ...dated.map(({ oldest }) => oldest.getTime()))
  const span = now.getTime() - first
  const place = (time: Date) => LEFT + 8 + ((time.getTime() - first) / span) * (WIDTH - 2 * LEFT - 16)
  const height = dated.length * 44 + 30
  return (
    <svg class="chart" viewBox={`0 0 ${WIDTH} ${height}`} role="img" aria-labelledby="age-title">
      <title id="age-title">
        {dated
          .map(
            ({ kekId, version, oldest, newest }) =>
              `Version ${version} under ${kekId}: made from ${timeText(oldest)} to ${timeText(newest)}`,
          )
          .join('; ')}
      </title>
      {dated.map(({ kekId, version, oldest, newest }, at) => (
        <g transform={`translate(0 ${at * 44})`}>
          <text x={LEFT} y={16}>
            {shortKekId(kekId)}
            <tspan class="faint"> version {version}</tspan>
          </text>
          <line class="axis" x1={LEFT} x2={WIDTH - LEFT} y1={30} y2={30} />
          <line class={`range ${shadeOf(version)}`} x1={place(oldest)} x2={place(newest)} y1={30} y2={30} />
          <circle class={shadeOf(version)} cx={place(oldest)} cy={30} r={5} />
          <circle class={shadeOf(version)} cx={place(newest)} cy={30} r={5} />
        </g>
      ))}
      <text x={LEFT} y={height - 6} class="faint">
        {daysAgo(span)}
      </text>
      <text x={WIDTH - LEFT} y={height - 6} text-anchor="end" class="faint">
        now
      </text>
    </svg>
  )
}

const counted = (count: number) => `${numberText(count)} ${count === 1 ? 'key' : 'keys'}`

function daysAgo(spanMs: number): string {
  const days = Math.round(spanMs / 86_400_000)
  if (days > 60) return `${Math.round(days / 30)} months ago`
  if (days >= 1) return `${days} ${days === 1 ? 'day' : 'days'} ago`
  const minutes = Math.max(1, Math.round(spanMs / 60_000))
  return minutes >= 60 ? `${Math.round(minutes / 60)} h ago` : `${minutes} min ago`
}

/** The same in numbers. */
export function CensusTable({ census }: { census: readonly DatedCensusRow[] }) {
  return (
    <section class="scroll" aria-label="The numbers" tabindex={0}>
      <table>
        <thead>
          <tr>
            <th scope="col">Master key</th>
            <th scope="col">Version</th>
            <th scope="col" class="end">
              Keys
            </th>
            <th scope="col">Oldest</th>
            <th scope="col">Newest</th>
          </tr>
        </thead>
        <tbody>
          {census.map(({ kekId, version, shredded, count, oldest, newest }) => (
            <tr>
              <td>{shredded ? 'erased' : <code>{kekId ?? '–'}</code>}</td>
              <td>{version}</td>
              <td class="end">{numberText(count)}</td>
              <td>{dateText(oldest)}</td>
              <td>{dateText(newest)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  )
}

const dateText = (time: Date) => (Number.isNaN(time.getTime()) ? '–' : time.toISOString().slice(0, 10))
