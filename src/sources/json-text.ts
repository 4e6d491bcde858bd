/** Replaces one value in the text of a JSON object. All other bytes stay: numbers that JavaScript cannot hold, spaces, order. */

/**
 * Replaces the value of a property. If several properties have the name, it replaces the last one, which is the one that `JSON.parse`
 * reads.
 *
 * @param text of an object, valid JSON
 * @returns the new text, or null if there is no such property
 */
export function withProperty(text: string, name: string, value: string): string | null {
  const span = spanOf(text, name)
  return span && text.slice(0, span.start) + JSON.stringify(value) + text.slice(span.end)
}

/** From the first character of a value to the one after its last. */
interface Span {
  readonly start: number
  readonly end: number
}

function spanOf(text: string, name: string): Span | null {
  let found: Span | null = null
  let position = skipSpace(text, text.indexOf('{') + 1)
  while (text[position] === '"') {
    const nameEnd = endOfString(text, position)
    const start = skipSpace(text, text.indexOf(':', nameEnd) + 1)
    const end = endOfValue(text, start)
    if (JSON.parse(text.slice(position, nameEnd)) === name) found = { start, end }
    // After the comma or the closing brace.
    position = skipSpace(text, skipSpace(text, end) + 1)
  }
  return found
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
