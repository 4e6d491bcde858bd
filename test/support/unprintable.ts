/** Characters that act on a terminal or a log instead of being shown. */
import { expect } from 'vitest'

export const UNPRINTABLES: readonly (readonly [name: string, character: string])[] = [
  ['ESC', '\u001b'],
  ['NUL', '\u0000'],
  ['a line feed', '\n'],
  ['a carriage return', '\r'],
  ['a tabulator', '\t'],
  ['a backspace', '\b'],
  ['DEL', '\u007f'],
  ['CSI, a C1 control', '\u009b'],
  ['NEL, a C1 control', '\u0085'],
  ['the line separator', '\u2028'],
  ['the paragraph separator', '\u2029'],
  ...'\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c'
    .split('')
    .map(
      (mark) => [`the direction mark U+${mark.charCodeAt(0).toString(16).padStart(4, '0')}`, mark] as const,
    ),
  ['a zero-width space', '\u200b'],
  ['a byte order mark', '\ufeff'],
  ['a tag character', '\u{e0041}'],
  ['a lone high surrogate', '\ud800'],
  ['a lone low surrogate', '\udfff'],
]

/** What a user id can hold in every database: no NUL and no lone surrogate. */
export const HOSTILE_ID = `a${UNPRINTABLES.map(([, character]) => character)
  .filter((character) => character !== '\0' && character.isWellFormed())
  .join('')}", version 1: fine`

/** Expects a text to hold nothing that acts on a terminal, but for the line feeds of its own lines. */
export function expectPrintable(text: string): void {
  expect(JSON.stringify(text.match(/[^\P{C}\n]|[\p{Zl}\p{Zp}]/gu) ?? [])).toBe('[]')
}
