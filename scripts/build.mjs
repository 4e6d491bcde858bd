// Compiles src to dist: plain tsc, one module a file, so that a stack trace and a bundler both see our layout.
// Does nothing when dist was made from the same sources, and replaces it in one step otherwise: child processes of a
// test run may be loading it.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmodSync, existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const dist = join(root, 'dist')
const stamp = sourceHash()

if (!existsSync(join(dist, '.stamp')) || readFileSync(join(dist, '.stamp'), 'utf8') !== stamp) build()

function build() {
  const fresh = `${dist}-${process.pid}`
  const tsc = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin', 'tsc')
  const args = [tsc, '--project', join(root, 'tsconfig.build.json'), '--outDir', fresh]
  const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' })
  if (status !== 0) {
    rmSync(fresh, { recursive: true, force: true })
    process.exit(status ?? 1)
  }
  chmodSync(join(fresh, 'cli', 'main.js'), 0o755)
  writeFileSync(join(fresh, '.stamp'), stamp)
  const old = `${dist}-old-${process.pid}`
  if (existsSync(dist)) renameSync(dist, old)
  renameSync(fresh, dist)
  rmSync(old, { recursive: true, force: true })
}

function sourceHash() {
  const sources = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' })
  const files = sources.filter((name) => name.endsWith('.ts')).map((name) => join('src', name))
  const hash = createHash('sha256')
  for (const file of [...files, 'tsconfig.json', 'tsconfig.build.json', 'package.json'].sort()) {
    hash
      .update(`${file}\0`)
      .update(readFileSync(join(root, file)))
      .update('\0')
  }
  return hash.digest('hex')
}
