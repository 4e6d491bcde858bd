/** Fields in the text of JSON: found as JSON.parse finds them, and replaced without a change to anything else. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ANY, type FieldPath, type FieldPlace, fieldPaths, placeName } from '../../src/sources/field-path.js'
import { fieldsIn, withProperty, withValues } from '../../src/sources/json-text.js'
import { slow } from '../support/slow.js'

const found = (text: string, ...paths: (string | string[])[]) =>
  fieldsIn(text, fieldPaths(paths)).map(({ place, span }) => [
    placeName(place),
    text.slice(span.start, span.end),
  ])

describe('fieldsIn', () => {
  it.each([
    ['{"a":1}', ['a'], [['a', '1']]],
    [
      ' { "a" : "x" , "b":2 } ',
      ['a', 'b'],
      [
        ['a', '"x"'],
        ['b', '2'],
      ],
    ],
    [
      '{"a":{"b":"x"},"c":{"b":"y"}}',
      ['*.b'],
      [
        ['a.b', '"x"'],
        ['c.b', '"y"'],
      ],
    ],
    [
      '[ "x" , {"y":1} ]',
      ['*'],
      [
        ['*', '"x"'],
        ['*', '{"y":1}'],
      ],
    ],
    [
      '{"a":[{"b":1},{"c":2},{"b":3}]}',
      ['a.*.b'],
      [
        ['a.*.b', '1'],
        ['a.*.b', '3'],
      ],
    ],
    [
      '{"a":"1","a":"2"}',
      ['a'],
      [
        ['a', '"1"'],
        ['a', '"2"'],
      ],
    ],
    [
      String.raw`{"\u0061":"x","q\"]}":["]"],"b":1}`,
      ['a', 'b'],
      [
        ['a', '"x"'],
        ['b', '1'],
      ],
    ],
    ['{"a":[],"b":{}}', ['a.*', 'b.*'], []],
    ['"text"', ['a'], []],
    ['null', ['a'], []],
    ['{"a":null}', ['a.b'], []],
    ['{"a.b":"x","a":{"b":"y"}}', [['a.b']], [[String.raw`a\.b`, '"x"']]],
    [
      '{"*":"x","y":"z"}',
      ['*'],
      [
        [String.raw`\*`, '"x"'],
        ['y', '"z"'],
      ],
    ],
    [
      '[[1,[2]],[3]]',
      ['*.*'],
      [
        ['*.*', '1'],
        ['*.*', '[2]'],
        ['*.*', '3'],
      ],
    ],
  ] as [string, (string | string[])[], string[][]][])('finds in %s at %j', (text, paths, expected) => {
    expect(found(text, ...paths)).toEqual(expected)
  })

  it('finds what JSON.parse finds, in any JSON and however it is spaced', () => {
    const names = fc.constantFrom('a', 'b', 'a.b', '*', '"', '\\', '__proto__', 'é')
    const value = fc.letrec((tie) => ({
      node: fc.oneof(
        { maxDepth: 4 },
        fc.oneof(fc.string({ unit: 'binary' }), fc.double({ noNaN: true }), fc.boolean(), fc.constant(null)),
        fc.array(tie('node'), { maxLength: 3 }),
        fc.dictionary(names, tie('node'), { maxKeys: 4 }),
      ),
    })).node
    const path = fc.array(fc.oneof(names, fc.constant(ANY)), { minLength: 1, maxLength: 3 })
    const space = fc.constantFrom(0, 2, '\t')
    fc.assert(
      fc.property(value, path, space, (value, path, space) => {
        const text = JSON.stringify(value, null, space)
        const fields = fieldsIn(text, [path])
        expect(fields.map(({ span }) => JSON.parse(text.slice(span.start, span.end)))).toEqual(
          walk(JSON.parse(text), path).map(([, field]) => field),
        )
        expect(fields.map(({ place }) => place)).toEqual(walk(JSON.parse(text), path).map(([place]) => place))
        const changed = withValues(
          text,
          fields.map(({ span }) => ({ span, value: 'token' })),
        )
        expect(walk(JSON.parse(changed), path).every(([, field]) => field === 'token')).toBe(true)
        const back = fieldsIn(changed, [path])
        expect(back).toHaveLength(fields.length)
        // With what was there before, it is the text that it was.
        const parts = back.map(({ span }, index) => ({
          span,
          old: text.slice(fields[index]?.span.start, fields[index]?.span.end),
        }))
        expect(
          parts.reduceRight(
            (now, { span, old }) => now.slice(0, span.start) + old + now.slice(span.end),
            changed,
          ),
        ).toBe(text)
      }),
      { numRuns: slow ? 20_000 : 500 },
    )
  })
})

describe('withProperty', () => {
  it('replaces the last property of the name, and no property of a value', () => {
    expect(withProperty('{"a":"1","b":{"a":"2"},"a":"3"}', 'a', 'x')).toBe('{"a":"1","b":{"a":"2"},"a":"x"}')
    expect(withProperty('{"b":{"a":"2"}}', 'a', 'x')).toBeNull()
  })
})

/** The fields of a parsed value, by the simplest of ways. */
function walk(value: unknown, path: FieldPath, place: FieldPlace = []): [FieldPlace, unknown][] {
  const [name, ...rest] = path
  if (name === undefined) return [[place, value]]
  if (typeof value !== 'object' || value === null) return []
  if (Array.isArray(value))
    return name === ANY ? value.flatMap((part) => walk(part, rest, [...place, null])) : []
  return Object.entries(value).flatMap(([key, part]) =>
    name === ANY || name === key ? walk(part, rest, [...place, key]) : [],
  )
}
