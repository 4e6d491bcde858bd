/** scripts/check-package.mjs complains about what must not be published so. */
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { expect, it } from 'vitest'
import { temporaryFolder } from '../support/databases.js'
import { checkPackage, type Ended } from '../support/node-script.js'
import { root } from '../support/root.js'

/** Packs a copy of what is published after `spoil` has changed it. */
async function checkSpoiled(spoil: (folder: string) => void): Promise<Ended> {
  const scratch = temporaryFolder()
  try {
    for (const entry of ['package.json', 'README.md', 'LICENSE', 'dist', 'migrations']) {
      cpSync(join(root, entry), join(scratch.path, entry), { recursive: true })
    }
    spoil(scratch.path)
    return await checkPackage('--root', scratch.path)
  } finally {
    scratch.remove()
  }
}
const write = (file: string, text: string) => (folder: string) => {
  mkdirSync(dirname(join(folder, file)), { recursive: true })
  writeFileSync(join(folder, file), text)
}
const editManifest =
  (edit: (manifest: Record<string, Record<string, unknown>>) => void) => (folder: string) => {
    const file = join(folder, 'package.json')
    const manifest = JSON.parse(readFileSync(file, 'utf8'))
    edit(manifest)
    writeFileSync(file, JSON.stringify(manifest))
  }
// A run takes two seconds, so one finds several faults.
it('complains about files that must not be published, or are missing', async () => {
  const { status, output } = await checkSpoiled((folder) => {
    write('dist/some.test.js', '')(folder)
    write('migrations/keystore.db', '')(folder)
    write('dist/master.key', 'x')(folder)
    write('dist/x.js.map', '{}')(folder)
    write('examples/byok-app/.env', 'not even packed')(folder)
    write('examples/byok-app/src/.env', 'x')(folder)
    write('dist/y.js', `// ${folder}`)(folder)
    rmSync(join(folder, 'LICENSE'))
    rmSync(join(folder, 'migrations', 'postgres'), { recursive: true })
  })
  expect(output.trim().split('\n')).toEqual([
    'dist/master.key: must not be published',
    'dist/some.test.js: must not be published',
    'dist/x.js.map: must not be published',
    'dist/y.js: names a folder of the machine that built it',
    'examples/byok-app/src/.env: must not be published',
    'migrations/keystore.db: must not be published',
    'LICENSE: is missing',
    'migrations/postgres/meta/_journal.json: is missing',
  ])
  expect(status).toBe(1)
})

it('complains about an entry without a file, one that cannot be required, and one with two instances', async () => {
  const { status, output } = await checkSpoiled((folder) => {
    write('dist/index.js', `await 0\n${readFileSync(join(folder, 'dist/index.js'), 'utf8')}`)(folder)
    write('dist/memory.cjs', 'exports.memoryKeyStore = () => undefined\n')(folder)
    const memory = { import: './dist/adapters/memory.js', require: './dist/memory.cjs' }
    editManifest(({ exports }) =>
      Object.assign(exports ?? {}, { './memory': memory, './gone': './dist/gone.js' }),
    )(folder)
  })
  expect(output).toContain('drizzle-keystore: ERR_REQUIRE_ASYNC_MODULE')
  expect(output).toContain('drizzle-keystore/memory: memoryKeyStore differs between import and require')
  expect(output).toContain('publint: pkg.exports["./gone"] is ./dist/gone.js but the file does not exist')
  expect(output).toContain('drizzle-keystore/gone: ERR_MODULE_NOT_FOUND')
  expect(status).toBe(1)
})
