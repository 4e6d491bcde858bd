/** Changes one value in the text of a JSON object and leaves every other byte: numbers that JavaScript cannot hold, spaces, order. */

/**
 * @param text of an object that `JSON.parse` reads
 * @param name of a property of it; of several of one name the last counts, as for `JSON.parse`
 * @returns the text with the new value, or null if there is no such property
 */
export function withProperty(text: string, name: string, value: string): string | null {
  const span = spanOf(text, name)
  return span && text.slice(0, span.start) + JSON.stringify(value) + text.slice(span.end)
}

interface Span {
  readonly start: number
  readonly end: number
}

function spanOf(text: string, name: string): Span | null {
  let found: Span | null = null
  let at = skipSpace(text, text.indexOf('{') + 1)
  while (text[at] === '"') {
    const nameEnd = endOfString(text, at)
    const start = skipSpace(text, text.indexOf(':', nameEnd) + 1)
    const end = endOfValue(text, start)
    if (JSON.parse(text.slice(at, nameEnd)) === name) found = { start, end }
    // Behind a comma, or at the closing brace.
    at = skipSpace(text, skipSpace(text, end) + 1)
  }
  return found
}

function endOfValue(text: string, start: number): number {
  let depth = 0
  for (let at = start; ; ) {
    const character = text[at]
    if (character === undefined) return at
    if (character === '"') at = endOfString(text, at)
    else {
      if (character === '{' || character === '[') depth += 1
      if (character === '}' || character === ']') depth -= 1
      // A number or a word ends at what follows it.
      if (depth < 0 || (depth === 0 && (character === ',' || isSpace(character)))) return at
      at += 1
    }
    if (depth === 0 && (character === '"' || character === '}' || character === ']')) return at
  }
}

/** @param start of the opening quote @returns behind the closing one */
function endOfString(text: string, start: number): number {
  let at = start + 1
  while (text[at] !== '"' && at < text.length) at += text[at] === '\\' ? 2 : 1
  return at + 1
}

function skipSpace(text: string, start: number): number {
  let at = start
  while (isSpace(text[at])) at += 1
  return at
}

/** RFC 8259 §2. */
function isSpace(character: string | undefined): boolean {
  return character === ' ' || character === '\t' || character === '\n' || character === '\r'
}
