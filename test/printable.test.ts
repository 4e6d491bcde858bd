/** How texts of others are shown in messages: no character of them acts on a terminal or a log, and none is too long. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { escaped, printable, quoted } from '../src/errors.js'
import { UNPRINTABLES } from './support/unprintable.js'

describe('printable', () => {
  it.each(UNPRINTABLES)('escapes %s', (_, character) => {
    const units = Array.from(
      { length: character.length },
      (_, at) => `\\u${character.charCodeAt(at).toString(16).padStart(4, '0')}`,
    ).join('')
    expect(printable(`a${character}b`)).toBe(`a${units}b`)
    expect(quoted(`a${character}b`).slice(0, 2)).toBe('"a')
    expect(quoted(`a${character}b`)).not.toContain(character)
  })

  it('leaves letters, signs and spaces of all scripts as they are', () => {
    const text = 'ålice “x” 用户 пользователь משתמש 🔐 a\u0301'
    expect(printable(text)).toBe(text)
    expect(quoted(text)).toBe(`"${text}"`)
  })

  it('cuts a long text and says how long it is, without cutting a character in two', () => {
    expect(printable('x'.repeat(128))).toBe('x'.repeat(128))
    expect(printable('x'.repeat(10_485_760))).toBe(`${'x'.repeat(128)}… (10,485,760 characters)`)
    expect(quoted('x'.repeat(129))).toBe(`"${'x'.repeat(128)}"… (129 characters)`)
    expect(printable(`${'x'.repeat(127)}🔐`)).toBe(`${'x'.repeat(127)}… (129 characters)`)
    expect(printable(`${'x'.repeat(126)}🔐x`)).toBe(`${'x'.repeat(126)}🔐… (129 characters)`)
  })

  it('in quotes tells where the text ends, and reads back as JSON', () => {
    expect(quoted('a", version 1: fine \\')).toBe('"a\\", version 1: fine \\\\"')
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 60 }), (text) => {
        expect(JSON.parse(quoted(text))).toBe(text)
      }),
    )
  })

  it('escapes a JSON document without changing what it says', () => {
    fc.assert(
      fc.property(fc.jsonValue({ noUnicodeString: false }), (value) => {
        expect(JSON.parse(escaped(JSON.stringify(value)))).toEqual(JSON.parse(JSON.stringify(value)))
      }),
    )
  })
})
