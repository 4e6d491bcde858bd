/** Everything that a log could show of a value, and the forms in which a secret could be in it. */
import { inspect } from 'node:util'
import { expect } from 'vitest'

/**
 * Everything that a log could print of a value: message, stack, JSON, own properties even if they are not enumerable, and
 * `util.inspect` without limits; the same of its cause, and of the errors of an AggregateError.
 */
export function everythingOf(value: unknown, seen = new Set<unknown>()): string {
  if (seen.has(value)) return ''
  seen.add(value)
  const parts = [
    inspect(value, {
      depth: Number.POSITIVE_INFINITY,
      showHidden: true,
      maxStringLength: null,
      maxArrayLength: null,
    }),
    String(value),
    JSON.stringify(value) ?? '',
  ]
  if (typeof value === 'object' && value !== null) {
    for (const name of Reflect.ownKeys(value)) {
      const property: unknown = Reflect.get(value, name)
      parts.push(
        `${String(name)}: ${inspect(property, { depth: Number.POSITIVE_INFINITY, showHidden: true })}`,
      )
      if (typeof property !== 'function') parts.push(JSON.stringify(property) ?? '')
    }
  }
  if (value instanceof Error) {
    parts.push(value.message, value.stack ?? '', everythingOf(value.cause, seen))
    if (value instanceof AggregateError) parts.push(...value.errors.map((error) => everythingOf(error, seen)))
  }
  const shown = parts.join('\n')
  // `inspect` sets long arrays of numbers in columns.
  return `${shown}\n${shown.replaceAll(/,\s+/g, ',')}`
}

/**
 * The forms in which bytes get into messages: hexadecimal (also as `inspect` prints a Buffer), base64 and base64url, and
 * arrays of numbers (JSON, `inspect` of a Uint8Array). Each form is a part from the front, middle or end: a part is a leak too.
 */
export function secretForms(bytes: Uint8Array): string[] {
  const forms = new Set<string>()
  const part = 12
  for (const start of [0, Math.max(0, Math.floor(bytes.length / 6) * 3), Math.max(0, bytes.length - part)]) {
    const slice = Buffer.from(bytes.subarray(start, start + part))
    forms.add(slice.toString('hex'))
    forms.add(slice.toString('hex').toUpperCase())
    forms.add([...slice].map((byte) => byte.toString(16).padStart(2, '0')).join(' '))
    forms.add([...slice].join(','))
    forms.add(slice.toString('latin1'))
    // Base64 of a part is a part of the base64 only where it begins at a multiple of three bytes.
    const aligned = Buffer.from(bytes.subarray(start - (start % 3), start - (start % 3) + part))
    forms.add(aligned.toString('base64').replace(/=+$/, ''))
    forms.add(aligned.toString('base64url'))
  }
  return [...forms].filter((form) => form.length >= 8)
}

/** The forms in which a text gets into messages: as it is, escaped, and as bytes. Whole, since such a text is planted to be unique. */
export function textForms(text: string): string[] {
  const forms = [text, JSON.stringify(text).slice(1, -1), encodeURIComponent(text)]
  return [...new Set([...forms, ...secretForms(Buffer.from(text))])]
}

/** Expects that nothing a log could print of the value has one of the forms of a secret. */
export function expectWithout(forms: readonly string[], value: unknown): void {
  const shown = everythingOf(value)
  expect(forms.filter((form) => shown.includes(form))).toEqual([])
}
