/** Sentences of commands on a terminal: wrapped at words, and nothing that is to be copied is cut. */
import { describe, expect, it } from 'vitest'
import { wrapped } from '../../src/cli/say.js'

describe('a sentence', () => {
  const SENTENCE = 'Give the master key to the application, and run `npx keystore rewrap` once more.'

  it('is as it is where there is no terminal, and where it fits', () => {
    for (const columns of [undefined, 0, SENTENCE.length]) expect(wrapped(SENTENCE, columns)).toBe(SENTENCE)
  })

  it('is wrapped at words, and never within a command in backticks', () => {
    expect(wrapped(SENTENCE, 60)).toBe(
      'Give the master key to the application, and run\n`npx keystore rewrap` once more.',
    )
    const lines = wrapped(SENTENCE, 22).split('\n')
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(22)
    expect(lines.join(' ')).toBe(SENTENCE)
  })

  it('leaves a word whole that is longer than a line', () => {
    expect(wrapped('See data/a-rather-long-name-of-a-folder/keystore.db now', 20)).toBe(
      'See\ndata/a-rather-long-name-of-a-folder/keystore.db\nnow',
    )
  })

  it('goes on below its head', () => {
    expect(wrapped('Backups:    master key and database', 24)).toBe(
      'Backups:    master key\n            and database',
    )
    expect(wrapped('- one two three', 9)).toBe('- one two\n  three')
    expect(wrapped('  1. one two', 8)).toBe('  1. one\n     two')
  })

  it('leaves indented lines alone: these are commands and code', () => {
    const text = 'Go on:\n  export API_KEY_MASTER_KEY_FILE=data/master.key'
    expect(wrapped(text, 20)).toBe(text)
  })
})
