/** What commands print: reports as text or as one JSON document on standard output. */
import Table from 'cli-table3'

/** Without colours: the same on a terminal, in a file and in a log. */
export function plainTable(head: string[]): Table.Table {
  return new Table({ head, style: { head: [], border: [] } })
}

/** One document, dates as ISO 8601, whole numbers that JSON readers would round as text. No report holds bytes. */
export function printJson(report: unknown): void {
  console.log(JSON.stringify(report, (_, value) => (typeof value === 'bigint' ? String(value) : value)))
}

/** `1,234` */
export function thousands(count: number): string {
  return Math.round(count).toLocaleString('en')
}

/** `1 key`, `1,234 keys` */
export function counted(count: number, thing: string): string {
  return `${thousands(count)} ${thing}${count === 1 ? '' : 's'}`
}

/** A user id in a sentence: quoted, and on one line whatever is in it. */
export function quoted(userId: string): string {
  return JSON.stringify(userId)
}

/** A KEK id for people. */
export function kekName(kekId: string | null): string {
  return kekId ?? 'none named (the Python reference)'
}

/** The wrap format that rows of a KEK id have. */
export function formatOf(kekId: string | null): 'v2' | 'v3' {
  return kekId === null || kekId.startsWith('local-v2:') ? 'v2' : 'v3'
}

/** The first of many lines, and how many there are. */
export function printSome(lines: readonly string[], total: number, most = 20): void {
  for (const line of lines.slice(0, most)) console.log(`  ${line}`)
  if (total > most) console.log(`  … and ${thousands(total - most)} more: --json lists them`)
}

/** 0 or 1, unless something else, an interruption, has decided already. */
export function exitWith(ok: boolean): void {
  process.exitCode ??= ok ? 0 : 1
}
