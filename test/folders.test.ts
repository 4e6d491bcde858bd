/** The folders that are made for files, each with an end where none can be made. */
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { beforeEach, describe, expect, it } from 'vitest'
import { makeFolders } from '../src/folders.js'
import { cleanUpAfterEach } from './support/cleanups.js'

describe('makeFolders', () => {
  const cleanups = cleanUpAfterEach()
  let folder: string
  beforeEach(() => {
    folder = cleanups.folder()
  })
  const modeOf = (path: string) => (statSync(path).mode & 0o777).toString(8)

  it('makes what is missing, for its owner alone, and leaves what is there', () => {
    mkdirSync(join(folder, 'there'))
    chmodSync(join(folder, 'there'), 0o755)
    for (let run = 0; run < 2; run++) makeFolders(join(folder, 'there', 'one', 'two'))
    const modes = ['there', 'there/one', 'there/one/two'].map((name) => modeOf(join(folder, name)))
    expect(modes).toEqual(['755', '700', '700'])
  })

  it('throws where a file or a link that leads nowhere has the name', () => {
    writeFileSync(join(folder, 'file'), '')
    symlinkSync('nowhere', join(folder, 'link'))
    for (const name of ['file/one', 'link', 'link/one'])
      expect(() => makeFolders(join(folder, name))).toThrow(/EEXIST|ENOTDIR/)
    expect(readdirSync(folder).sort()).toEqual(['file', 'link'])
  })
})

/** Node's own way never returns below /proc: the commands' tests have that. */
it('nothing in src makes folders in another way', () => {
  const files = readdirSync('src', { recursive: true, encoding: 'utf8' }).filter((name) =>
    name.endsWith('.ts'),
  )
  const callers = files.filter((name) => /\bmkdir/.test(readFileSync(join('src', name), 'utf8')))
  expect(callers).toEqual(['folders.ts'])
})
