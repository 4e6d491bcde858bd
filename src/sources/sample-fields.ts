/** What can be wrong with the registered fields of JSON columns, for `keystore doctor`. */
import { isToken } from '../format/token.js'
import { isJson } from './field-cells.js'
import { type FieldPath, isField, pathsThrough, placeName } from './field-path.js'
import { fieldsIn } from './json-text.js'

/** What a JSON column holds at some paths. @returns null if it holds no JSON */
export function fieldValues(stored: unknown, paths: readonly FieldPath[]): unknown[] | null {
  if (typeof stored !== 'string' || !isJson(stored)) return null
  return fieldsIn(stored, paths).map(({ span }) => JSON.parse(stored.slice(span.start, span.end)))
}

/** The place of a token outside of the registered paths, such as one that was registered once. @returns null if there is none */
export function tokenElsewhere(stored: unknown, paths: readonly FieldPath[]): string | null {
  if (typeof stored !== 'string' || !isJson(stored)) return null
  const find = (
    value: unknown,
    paths: readonly FieldPath[],
    place: readonly (string | null)[],
  ): string | null => {
    if (isField(paths, place.length)) return null
    if (isToken(value)) return placeName(place)
    if (typeof value !== 'object' || value === null) return null
    const parts = Array.isArray(value)
      ? value.map((part) => [null, part] as const)
      : Object.entries(value as object)
    for (const [name, part] of parts) {
      const found = find(part, pathsThrough(paths, place.length, name), [...place, name])
      if (found !== null) return found
    }
    return null
  }
  return find(JSON.parse(stored), paths, [])
}
