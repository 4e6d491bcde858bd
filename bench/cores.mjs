// The package with either core, side by side in one process: each is chosen once, at a copy's first key.
import { cpSync, existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
/** Ignored by git, and beside dist/, so that it finds the same packages. */
const COPY = join(root, 'dist-bench')

/** What both are measured with, if `node scripts/build-native.mjs --limit` could build it; else null. */
export const addon = nativeAddon()

/**
 * @param name 'javascript' or 'native'
 * @returns what a copy of the package exports: `index`, `memory`, and others by `load(file)`. Keys of one are not keys of the other
 * @throws if that core is not in use there
 */
export async function packageWith(name) {
  const folder = name === 'javascript' ? join(root, 'dist') : COPY
  if (name === 'native') cpSync(join(root, 'dist'), COPY, { recursive: true })
  const load = (file) => import(pathToFileURL(join(folder, file)).href)
  const [index, memory] = [await load('index.js'), await load('adapters/memory.js')]
  const before = process.env.KEYSTORE_NATIVE
  process.env.KEYSTORE_NATIVE = name === 'native' ? '1' : '0'
  const chosen = index.cryptoCore()
  if (before === undefined) delete process.env.KEYSTORE_NATIVE
  else process.env.KEYSTORE_NATIVE = before
  if (chosen.name !== name) throw new Error(`The ${name} core is not in use: ${chosen.reason}`)
  return { index, memory, load }
}

function nativeAddon() {
  if (!existsSync(join(root, 'node_modules', '@drizzle-keystore', 'native'))) return null
  try {
    return createRequire(import.meta.url)('@drizzle-keystore/native')
  } catch {
    return null
  }
}
