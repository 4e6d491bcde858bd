/** Arrays as parameters of Postgres statements. */

/**
 * An array as text (postgresql.org/docs/current/arrays.html#ARRAYS-IO). Every driver passes a text on as it is. Of JavaScript's arrays each
 * can write other ones: postgres-js none of times, under Drizzle, and none at all with `fetch_types: false`.
 */
export function arrayLiteral(values: readonly (string | number | null)[]): string {
  let elements = ''
  for (const [at, value] of values.entries()) {
    if (at > 0) elements += ','
    elements += typeof value === 'string' ? quotedElement(value) : (value ?? 'NULL')
  }
  return `{${elements}}`
}

function quotedElement(text: string): string {
  // Faster than a pattern, which goes over a wrapped key in hexadecimal character by character.
  const isPlain = !text.includes('"') && !text.includes('\\')
  return `"${isPlain ? text : text.replace(/["\\]/g, '\\$&')}"`
}
