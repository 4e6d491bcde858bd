/** Arrays as parameters of Postgres statements. */

/**
 * An array as text (postgresql.org/docs/current/arrays.html#ARRAYS-IO). Every driver passes a text on as it is. Of JavaScript's arrays each
 * can write other ones: postgres-js none of times, under Drizzle, and none at all with `fetch_types: false`.
 */
export function arrayLiteral(values: readonly (string | number | null)[]): string {
  return `{${values.map((value) => (value === null ? 'NULL' : quotedElement(String(value)))).join(',')}}`
}

function quotedElement(text: string): string {
  return `"${/["\\]/.test(text) ? text.replace(/["\\]/g, '\\$&') : text}"`
}
