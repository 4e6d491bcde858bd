/** Converts times to and from the text in SQLite, which both Python's `datetime.fromisoformat` and JavaScript read. */
import { isoText } from '../../iso-time.js'

// RFC 3339. The offset is required: JavaScript takes a time without one for local time.
const RFC_3339 = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/

let last = { ms: Number.NaN, text: '' }

/**
 * Formats a time exactly as the Python reference does: `2026-11-22T20:24:02.735000+00:00`. A Python before 3.11 may still read
 * the file, and its `fromisoformat` accepts neither `Z` nor another number of digits.
 */
export function instantToText(value: Date): string {
  const ms = value.getTime()
  // A rewrap writes many rows with the same time.
  if (ms !== last.ms) last = { ms, text: `${isoText(value).slice(0, -1)}000+00:00` }
  return last.text
}

/** Parses a time and cuts it to milliseconds. An invalid Date if the text is not RFC 3339: see `requireValidTimes`. */
export function instantFromText(value: string): Date {
  return new Date(RFC_3339.test(value) ? value : Number.NaN)
}
