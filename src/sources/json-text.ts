/** Replaces values in the text of JSON. All other bytes stay: numbers that JavaScript cannot hold, spaces, order, properties of one name. */
import { type FieldPath, type FieldPlace, isField, pathsThrough } from './field-path.js'

/**
 * Replaces the value of a property. If several properties have the name, it replaces the last one, which is the one that `JSON.parse`
 * reads.
 *
 * @param text of an object, valid JSON
 * @returns the new text, or null if there is no such property
 */
export function withProperty(text: string, name: string, value: string): string | null {
  let found: Span | null = null
  for (const property of propertiesOf(text, text.indexOf('{')))
    if (property.name === name) found = property.value
  return found && withValues(text, [{ span: found, value }])
}

/** How many properties of an object have a name. @param text of an object, valid JSON */
export function countProperties(text: string, name: string): number {
  const written = JSON.stringify(name)
  // Most lines are done with a search. In others the name may be written with escapes.
  if (text.indexOf(written) === text.lastIndexOf(written) && !text.includes('\\'))
    return text.includes(written) ? 1 : 0
  let count = 0
  for (const property of propertiesOf(text, text.indexOf('{'))) if (property.name === name) count += 1
  return count
}

/** A registered field in a text. */
export interface FieldSpan {
  readonly place: FieldPlace
  readonly span: Span
}

/**
 * The fields at some paths, in their order in the text. If several properties of an object have one name, each of them is given: `JSON.parse`
 * reads the last one, and the others are stored too.
 *
 * @param text valid JSON
 */
export function fieldsIn(text: string, paths: readonly FieldPath[]): FieldSpan[] {
  const found: FieldSpan[] = []
  const visit = (span: Span, paths: readonly FieldPath[], place: FieldPlace): void => {
    if (isField(paths, place.length)) {
      found.push({ place, span })
      return
    }
    const first = text[span.start]
    const parts =
      first === '{' ? propertiesOf(text, span.start) : first === '[' ? elementsOf(text, span.start) : []
    for (const { name, value } of parts) {
      const through = pathsThrough(paths, place.length, name)
      if (through.length > 0) visit(value, through, [...place, name])
    }
  }
  const start = skipSpace(text, 0)
  visit({ start, end: endOfValue(text, start) }, paths, [])
  return found
}

/** @param values from the front of the text to its end */
export function withValues(
  text: string,
  values: readonly { readonly span: Span; readonly value: string }[],
): string {
  const parts: string[] = []
  let position = 0
  for (const { span, value } of values) {
    parts.push(text.slice(position, span.start), JSON.stringify(value))
    position = span.end
  }
  return parts.join('') + text.slice(position)
}

/** From the first character of a value to the one after its last. */
export interface Span {
  readonly start: number
  readonly end: number
}

/** @param start position of the opening brace */
function* propertiesOf(text: string, start: number): Generator<{ name: string; value: Span }> {
  let position = skipSpace(text, start + 1)
  while (text[position] === '"') {
    const nameEnd = endOfString(text, position)
    const name = JSON.parse(text.slice(position, nameEnd)) as string
    const value = valueAt(text, text.indexOf(':', nameEnd) + 1)
    yield { name, value }
    // After the comma or the closing brace.
    position = skipSpace(text, skipSpace(text, value.end) + 1)
  }
}

/** @param start position of the opening bracket */
function* elementsOf(text: string, start: number): Generator<{ name: null; value: Span }> {
  let position = skipSpace(text, start + 1)
  while (text[position] !== ']') {
    const value = valueAt(text, position)
    yield { name: null, value }
    position = skipSpace(text, value.end)
    if (text[position] !== ',') return
    position = skipSpace(text, position + 1)
  }
}

function valueAt(text: string, position: number): Span {
  const start = skipSpace(text, position)
  return { start, end: endOfValue(text, start) }
}

function endOfValue(text: string, start: number): number {
  let depth = 0
  for (let position = start; ; ) {
    const character = text[position]
    if (character === undefined) return position
    if (character === '"') position = endOfString(text, position)
    else {
      if (character === '{' || character === '[') depth += 1
      if (character === '}' || character === ']') depth -= 1
      // A number, true, false or null ends before the character that follows it.
      if (depth < 0 || (depth === 0 && (character === ',' || isSpace(character)))) return position
      position += 1
    }
    if (depth === 0 && (character === '"' || character === '}' || character === ']')) return position
  }
}

/** @param start position of the opening quote @returns the position after the closing quote */
function endOfString(text: string, start: number): number {
  let position = start + 1
  while (text[position] !== '"' && position < text.length) position += text[position] === '\\' ? 2 : 1
  return position + 1
}

function skipSpace(text: string, start: number): number {
  let position = start
  while (isSpace(text[position])) position += 1
  return position
}

/** White space as in RFC 8259 §2. */
function isSpace(character: string | undefined): boolean {
  return character === ' ' || character === '\t' || character === '\n' || character === '\r'
}
