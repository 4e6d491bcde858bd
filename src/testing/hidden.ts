/** Conformance: nothing secret in what is printed. */
import assert from 'node:assert/strict'
import { inspect } from 'node:util'

/** Shorter ones are in any text by chance. */
const SHORTEST = 4
/** `inspect` shows 50 bytes of a Buffer. */
const SHOWN_BYTES = 32

/** The texts that a secret may stand as: as it is, hexadecimal, base64, and as `inspect` shows bytes. */
export function formsOf(secret: string | Uint8Array): readonly string[] {
  const bytes = Buffer.from(secret)
  const shown = [...bytes.subarray(0, SHOWN_BYTES)]
  const forms = [
    bytes.toString('hex'),
    bytes.toString('base64').replace(/=+$/, ''),
    bytes.toString('base64url'),
    bytes.toString('latin1'),
    shown.map((byte) => byte.toString(16).padStart(2, '0')).join(' '),
    shown.join(),
  ]
  if (typeof secret === 'string') forms.push(secret, encodeURIComponent(secret))
  return forms.filter((form) => form.length >= SHORTEST)
}

/** Asserts that no form is in anything of the value that a log may print: its message, its stack, its properties, its cause. */
export function assertHidden(value: unknown, forms: readonly string[], what: string): void {
  const limits = { depth: 12, maxArrayLength: null, maxStringLength: null }
  const texts = [String(value), inspect(value, limits)]
  if (value instanceof Error) texts.push(value.message, value.stack ?? '', inspect(value.cause, limits))
  try {
    texts.push(JSON.stringify(value) ?? '')
  } catch {
    // A circle: inspect has shown it.
  }
  for (const text of texts) {
    // Bytes stand in columns, and as {"0":1,"1":2} in JSON.
    const joined = text
      .replace(/"\d+":/g, '')
      .replace(/,\s+/g, ',')
      .toLowerCase()
    const isTold = forms.some((form) => joined.includes(form.toLowerCase()))
    assert.ok(!isTold, `${what} tells a secret`)
  }
}
