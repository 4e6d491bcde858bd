/** Instants as SQLite keeps them: text that Python's `datetime.fromisoformat` and JavaScript both read. */

// RFC 3339 with the offset required: without one JavaScript would take the time for local.
const RFC_3339 = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/

let last = { ms: Number.NaN, text: '' }

/**
 * Exactly as the Python reference writes it, `2026-11-22T20:24:02.735000+00:00`: a process of it that still reads
 * the file may run a Python before 3.11, whose `fromisoformat` knows neither `Z` nor other numbers of digits.
 */
export function instantToText(value: Date): string {
  const ms = value.getTime()
  // The rows of a page of a rewrap have one time, or nearly so.
  if (ms !== last.ms) last = { ms, text: value.toISOString().replace('Z', '000+00:00') }
  return last.text
}

/** Milliseconds; the reference's microseconds are cut. An invalid Date if the text is not RFC 3339: see readRecord. */
export function instantFromText(value: string): Date {
  return new Date(RFC_3339.test(value) ? value : Number.NaN)
}
