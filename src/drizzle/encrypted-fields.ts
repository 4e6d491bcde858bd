/** How JSON columns with encrypted fields encode and decode their values, in both dialects. Imports no drizzle. */
import { invalidArgument, quoted } from '../errors.js'
import { FIELD_CONTEXT } from '../sources/field-cells.js'
import {
  ANY,
  type FieldPath,
  type FieldPlace,
  fieldPaths,
  isField,
  pathsThrough,
  placeName,
} from '../sources/field-path.js'
import { kindOf, ownOptions } from '../validate.js'
import {
  type EncryptedColumnMark,
  type EncryptedColumnOptions,
  jsonText,
  markFrom,
  scopedText,
} from './encrypted-column.js'

/** The options of {@link encryptedFields}. */
export interface EncryptedFieldsOptions<Value> extends EncryptedColumnOptions {
  /**
   * Where the encrypted fields are: names with dots between them, such as `'apiKey'` or `'providers.*.secret'`, in which `*` stands for each
   * property of an object or each element of an array. A path with a name that has a dot in it is an array of names: `['providers', 'api.key']`.
   * The fields must be strings, and may be null or absent.
   */
  readonly paths: readonly FieldPathOf<Value>[]
}

/** The codec of a JSON column. It is given what the driver makes of JSON: its text, or what that holds. */
interface FieldsCodec<Value> {
  readonly mark: EncryptedColumnMark
  encode(value: Value): string
  decode(stored: unknown): Value
  canBeDefault(value: unknown): boolean
}

/** @throws ERR_INVALID_ARGUMENT */
export function fieldsCodec<Value>(options: EncryptedFieldsOptions<Value>): FieldsCodec<Value> {
  const { paths: given, ...columnOptions } = ownOptions(options ?? {})
  const paths = fieldPaths(given)
  const mark = markFrom('fields', columnOptions)
  const { context, owner } = mark
  if (FIELD_CONTEXT in context)
    throw invalidArgument(
      `the context of encryptedFields cannot have a value ${quoted(FIELD_CONTEXT)}: that is each field's own`,
    )
  // Of the path as it was declared: names of properties where it has a `*` are the application's data.
  const nameOf = (path: FieldPath) =>
    [
      ...(context.column === undefined ? [] : [context.column]),
      placeName(path.map((name) => (name === ANY ? null : name))),
    ].join('.')
  const codecOf = (place: FieldPlace, path: FieldPath) =>
    scopedText({ owner, context: { ...context, [FIELD_CONTEXT]: placeName(place) } }, nameOf(path))
  return {
    mark: { ...mark, fields: paths },
    encode(value) {
      // What JSON makes of it: an object with a method toJSON may hide other fields than it writes.
      const written: unknown = JSON.parse(jsonText(value, context.column ?? null))
      assertShape(written, paths, nameOf)
      return JSON.stringify(
        withFields(written, paths, (field, place, path) => {
          if (typeof field === 'string') return codecOf(place, path).encode(field)
          throw invalidArgument(
            `The encrypted field ${quoted(nameOf(path))} must be a string, null or absent, got ${kindOf(field)}`,
          )
        }),
      )
    },
    decode(stored) {
      const value = typeof stored === 'string' ? parsed(stored) : stored
      return withFields(value, paths, (field, place, path) =>
        codecOf(place, path).decode(field as string),
      ) as Value
    },
    canBeDefault(value) {
      let hasNone = true
      withFields(value, paths, () => {
        hasNone = false
      })
      return hasNone
    },
  }
}

/** Postgres's drivers parse JSON, and so give the text itself of a value that is a JSON string. */
function parsed(stored: string): unknown {
  try {
    return JSON.parse(stored)
  } catch {
    return stored
  }
}

/**
 * Refuses a value in which a path ends before its field, at a text or at a list for an object: what is meant to be encrypted may be there, and
 * would be stored as it is.
 */
function assertShape(
  value: unknown,
  paths: readonly FieldPath[],
  nameOf: (path: FieldPath) => string,
  depth = 0,
): void {
  if (value === null || typeof value === 'boolean' || isField(paths, depth)) return
  const at = depth === 0 ? 'The value' : quoted(nameOf((paths[0] as FieldPath).slice(0, depth)))
  if (typeof value !== 'object')
    throw invalidArgument(
      `${at} must be an object or a list, since it has encrypted fields in it, or null: got ${kindOf(value)}`,
    )
  if (Array.isArray(value) && pathsThrough(paths, depth, null).length === 0)
    throw invalidArgument(
      `${at} must be an object, since its encrypted fields have names: got a list. Write * in the path for its elements`,
    )
  const parts = Array.isArray(value) ? value.map((part) => [null, part] as const) : Object.entries(value)
  for (const [name, part] of parts) {
    const going = pathsThrough(paths, depth, name)
    if (going.length > 0) assertShape(part, going, nameOf, depth + 1)
  }
}

/** A value with each field at the paths changed. Changes nothing in place: Drizzle may keep what it has read. Null fields stay. */
function withFields(
  value: unknown,
  paths: readonly FieldPath[],
  change: (field: unknown, place: FieldPlace, path: FieldPath) => unknown,
  place: FieldPlace = [],
): unknown {
  if (value === null || typeof value !== 'object')
    return isField(paths, place.length) && value !== null
      ? change(value, place, paths[0] as FieldPath)
      : value
  if (isField(paths, place.length)) return change(value, place, paths[0] as FieldPath)
  const through = (name: string | null, part: unknown) => {
    const going = pathsThrough(paths, place.length, name)
    return going.length === 0 ? part : withFields(part, going, change, [...place, name])
  }
  if (Array.isArray(value)) return value.map((element) => through(null, element))
  // Entries, and not assignments: a property may be called __proto__.
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, through(name, part)]))
}

/** The paths of a value's fields that may be encrypted: those of type string, null and undefined. Any path, if the type is unknown. */
export type FieldPathOf<Value> = unknown extends Value
  ? string | readonly string[]
  : DottedOf<PathsIn<NonNullable<Value>>> | Readonly<PathsIn<NonNullable<Value>>>

/** Deep enough for real values, and an end for types that contain themselves. */
type Deepest = 6

type PathsIn<Value, Depth extends readonly 0[] = []> = Depth['length'] extends Deepest
  ? never
  : Value extends (...args: never[]) => unknown
    ? never
    : Value extends readonly (infer Element)[]
      ? ['*', ...PathsBelow<Element, Depth>]
      : Value extends object
        ? { [Name in keyof Value & string]: [Name | '*', ...PathsBelow<Value[Name], Depth>] }[keyof Value &
            string]
        : never

type PathsBelow<Value, Depth extends readonly 0[]> = unknown extends Value
  ? readonly string[]
  : [NonNullable<Value>] extends [string]
    ? []
    : PathsIn<NonNullable<Value>, readonly [...Depth, 0]>

type DottedOf<Path> = Path extends readonly [infer Name extends string]
  ? Undotted<Name>
  : Path extends readonly [infer Name extends string, ...infer Rest extends readonly string[]]
    ? `${Undotted<Name>}.${DottedOf<Rest>}`
    : string

/** In a path with dots, a name with a dot would be two names. */
type Undotted<Name extends string> = string extends Name
  ? string
  : Name extends `${string}.${string}`
    ? never
    : Name
