/** `npm run test:slow` runs every test file that has larger counts, and no other. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { root } from '../support/root.js'
import { hasSlowCounts, slowFiles } from '../support/slow-files.js'

it('npm run test:slow has the files with larger counts, and no other', () => {
  const files = slowFiles(root)
  expect(files).toContain('test/lifecycle/kill-rewrap.test.ts')
  expect(files).toContain('test/adapters/postgres/server-faults.test.ts')
  const counting = readdirSync(join(root, 'test'), { recursive: true, encoding: 'utf8' })
    .map((path) => `test/${path}`)
    .filter((path) => path.endsWith('.test.ts'))
    .filter((path) => /\bslow \? |\bkillMoments\(/.test(readFileSync(join(root, path), 'utf8')))
  expect(counting.length).toBeGreaterThan(5)
  expect(counting.filter((path) => !files.includes(path))).toEqual([])
})

it('a file without larger counts is not among them', () => {
  expect(hasSlowCounts("import { slow } from './support/slow.js'")).toBe(true)
  expect(hasSlowCounts("import {\n  KILLS,\n} from '../support/child-kills.js'")).toBe(true)
  expect(hasSlowCounts("import { KILLS } from '../../support/child-kills.js'")).toBe(true)
  expect(hasSlowCounts("import { root } from '../support/root.js'")).toBe(false)
})
