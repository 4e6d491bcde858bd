/**
 * Refuses expressions that would store plaintext in an encrypted column: an `sql` expression, another column and the rows of `insert … select`
 * never come to the column's encoder. What they are made of can be seen, but not what the text of `sql` says.
 */
import { isDeepStrictEqual } from 'node:util'
import { Column, is, Name, Param, SQL, StringChunk, Subquery, Table, View } from 'drizzle-orm'
import { invalidArgument, quoted } from '../errors.js'
import { isToken } from '../format/token.js'
import { type EncryptedColumnMark, markOf } from './encrypted-column.js'
import { selectionsOf, type WrittenRow } from './written-row.js'

/** @throws ERR_INVALID_ARGUMENT */
export function assertHoldsTokens(row: WrittenRow, property: string, mark: EncryptedColumnMark): void {
  const cell = row.read(property)
  if (cell.kind !== 'unseen' || cell.sources.every((source) => holdsTokens(source, mark))) return
  const what =
    row.statement === 'insert-select'
      ? 'insert … select'
      : cell.sources.some((source) => is(source, Column))
        ? 'another column'
        : 'an sql expression with parameters or other columns in it'
  throw invalidArgument(
    `The encrypted property ${quoted(property)} was to be written from ${what}, which may hold plaintext: it would be stored as it is. ` +
      'Give the value itself in values() or set(), or a column with the same context. To encrypt what a plaintext column holds, use the sweep (docs/REENCRYPT.md)',
  )
}

function holdsTokens(source: unknown, mark: EncryptedColumnMark): boolean {
  if (is(source, Column)) return isSameKind(source, mark)
  // SQL may change the other fields of such a column, with parameters.
  if (mark.kind === 'fields') return true
  return !outline(source, mark).replaceAll(CONDITIONS, ' ').includes(FOREIGN)
}

/** Whether an expression takes what the row has that an upsert was to insert. */
export function isOfInsertedRow(sources: readonly unknown[], mark: EncryptedColumnMark): boolean {
  return sources.some((source) => /\bexcluded\b/i.test(outline(source, mark)))
}

/** Stands for what may be plaintext in the outline of an expression. */
const FOREIGN = '\0'
/** Of a `case`: they decide which value is taken, and are none. */
const CONDITIONS = /\b(case|when)\b.*?\bthen\b/gis

/** SQL in which all that holds tokens is a space. */
function outline(chunk: unknown, mark: EncryptedColumnMark): string {
  if (chunk === undefined || chunk === null || isToken(chunk)) return ' '
  // An array in 0.45, a string in 1.0.
  if (is(chunk, StringChunk)) return [chunk.value].flat().join('')
  if (Array.isArray(chunk)) return chunk.map((part) => outline(part, mark)).join(' ')
  if (is(chunk, SQL)) return chunk.queryChunks.map((part) => outline(part, mark)).join('')
  if (is(chunk, SQL.Aliased)) return outline(chunk.sql, mark)
  if (is(chunk, Column)) return isSameKind(chunk, mark) ? ' ' : FOREIGN
  if (is(chunk, Param)) return isSameKind(chunk.encoder, mark) ? ' ' : outline(chunk.value, mark)
  if (is(chunk, Name)) return chunk.value
  if ([Table, View, Subquery].some((named) => is(chunk, named))) return ' '
  const rows = selectionsOf(chunk)
  const isCopy = rows.length > 0 && rows.flatMap(Object.values).every((field) => holdsTokens(field, mark))
  return isCopy ? ' ' : FOREIGN
}

/** Tokens of an application's own hold no plaintext, whatever their context is. */
function isSameKind(column: unknown, { kind, owner, context, fields }: EncryptedColumnMark): boolean {
  const mark = markOf(column)
  if (mark === null || mark.kind === 'token') return mark !== null
  return (
    mark.kind === kind &&
    mark.owner === owner &&
    isDeepStrictEqual(mark.context, context) &&
    isDeepStrictEqual(mark.fields, fields)
  )
}
