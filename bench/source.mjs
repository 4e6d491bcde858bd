/** Modules of src/ that the package does not export, for parts that measure what a call does inside. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { rolldown } from 'rolldown'

const src = join(dirname(fileURLToPath(import.meta.url)), '..', 'src')

/** @param file below src/; it and what it imports may import modules of Node.js's only @returns its exports */
export async function importSource(file) {
  const folder = mkdtempSync(join(tmpdir(), 'keystore-bench-source-'))
  try {
    const compiled = join(folder, 'module.mjs')
    const bundle = await rolldown({ input: join(src, file), platform: 'node', tsconfig: false })
    await bundle.write({ file: compiled, format: 'esm', codeSplitting: false })
    await bundle.close()
    return await import(pathToFileURL(compiled).href)
  } finally {
    rmSync(folder, { recursive: true })
  }
}
