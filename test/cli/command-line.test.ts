/** How texts name the command in each runtime. */
import { describe, expect, it } from 'vitest'
import { inThisRuntime } from '../../src/cli/command-line.js'

describe('inThisRuntime', () => {
  const text = 'run `npx keystore migrate`, then npx keystore doctor'

  it.each([
    [{ node: '24.0.0' }, text],
    [{ node: '24.0.0', bun: '1.4.5' }, 'run `bunx --bun keystore migrate`, then bunx --bun keystore doctor'],
    [
      { node: '24.0.0', deno: '2.9.6' },
      'run `deno run -A npm:drizzle-keystore/keystore migrate`, then deno run -A npm:drizzle-keystore/keystore doctor',
    ],
  ])('with %o', (versions, expected) => {
    expect(inThisRuntime(text, versions)).toBe(expected)
  })
})
