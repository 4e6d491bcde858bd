/** The two formats, and which of them are read. */
import { invalidArgument } from '../errors.js'

/** The formats of tokens and wrapped keys. `v2` is the Python reference's, which binds nothing; `v3` is the default. */
export type Format = 'v2' | 'v3'

/** @throws ERR_INVALID_ARGUMENT */
export function assertFormat(format: unknown): asserts format is Format {
  if (!isFormat(format)) throw invalidArgument("format must be 'v3' or 'v2'")
}

function isFormat(value: unknown): value is Format {
  return value === 'v2' || value === 'v3'
}

/** The formats to read: those named, and the one that is written. @throws ERR_INVALID_ARGUMENT */
export function acceptedFormats(
  name: string,
  formats: readonly Format[] | undefined,
  written: Format,
): readonly Format[] {
  if (formats === undefined) return [written]
  assertFormats(name, formats)
  return [...new Set([written, ...formats])].sort()
}

/** @throws ERR_INVALID_ARGUMENT */
export function assertFormats(name: string, formats: unknown): asserts formats is readonly Format[] {
  if (!Array.isArray(formats) || !formats.every(isFormat))
    throw invalidArgument(`${name} must be an array of 'v3' and 'v2'`)
}
