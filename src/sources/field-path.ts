/** Paths of registered fields inside JSON values. */
import { invalidArgument, quoted } from '../errors.js'
import { kindOf } from '../validate.js'

/** Names from the outermost object inwards. {@link ANY} stands for each property of an object, or for each element of an array. */
export type FieldPath = readonly string[]

export const ANY = '*'

/** Where one field is: its names from the outermost object inwards, with null for an element of an array. */
export type FieldPlace = readonly (string | null)[]

/**
 * Reads paths as `encryptedFields` takes them: `'providers.*.secret'`, or `['providers', '*', 'api.key']` for names with dots.
 *
 * @throws ERR_INVALID_ARGUMENT, also if two paths can lead to the same field or into each other: it would be encrypted twice
 */
export function fieldPaths(given: unknown): readonly FieldPath[] {
  if (!Array.isArray(given) || given.length === 0)
    throw invalidArgument(
      `paths must be an array with at least one path, such as ['apiKey', 'providers.*.secret'], got ${kindOf(given)}`,
    )
  const paths = given.map(fieldPath)
  for (const [index, path] of paths.entries()) {
    const other = paths.slice(0, index).find((earlier) => canMeet(earlier, path))
    if (other !== undefined)
      throw invalidArgument(
        `paths ${quoted(other.join('.'))} and ${quoted(path.join('.'))} can lead to the same field: leave one out`,
      )
  }
  return paths
}

function fieldPath(given: unknown): FieldPath {
  const names: unknown = typeof given === 'string' ? given.split('.') : given
  const isPath = Array.isArray(names) && names.length > 0 && names.every(isName)
  if (!isPath)
    throw invalidArgument(
      "a path must be names with dots between them, such as 'providers.*.secret', or an array of names",
    )
  return Object.freeze([...names])
}

function isName(name: unknown): name is string {
  return typeof name === 'string' && name !== '' && name.isWellFormed()
}

function canMeet(a: FieldPath, b: FieldPath): boolean {
  const shorter = Math.min(a.length, b.length)
  return a.slice(0, shorter).every((name, at) => name === b[at] || name === ANY || b[at] === ANY)
}

/** The paths that go on through a property of this name, or through an element of an array (null), at this depth. */
export function pathsThrough(
  paths: readonly FieldPath[],
  depth: number,
  name: string | null,
): readonly FieldPath[] {
  return paths.filter((path) => path[depth] === ANY || (name !== null && path[depth] === name))
}

/** Whether one of the paths ends at this depth. None goes on then: {@link fieldPaths} has seen to it. */
export function isField(paths: readonly FieldPath[], depth: number): boolean {
  return paths[0]?.length === depth
}

/**
 * The name of a place, which is part of the context of what is encrypted there: names with dots between them, `*` for an element of an
 * array. In names a backslash stands before each backslash, dot and asterisk, so that no two places have one name.
 */
export function placeName(place: FieldPlace): string {
  return place.map((name) => (name === null ? ANY : name.replaceAll(/[\\.*]/g, '\\$&'))).join('.')
}
