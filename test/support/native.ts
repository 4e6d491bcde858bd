/** The addon of native/, for tests that call it directly, and the reason why they are skipped where it was not built. */
import { createRequire } from 'node:module'
import type { NativeAddon, NativeParts } from '../../src/format/native-addon.js'
import { describeIf } from './conditional.js'

function addonOrNull(): NativeAddon | null {
  try {
    return createRequire(import.meta.url)('@drizzle-keystore/native')
  } catch {
    return null
  }
}

/** Whether or not the rest of the suite uses it: KEYSTORE_NATIVE=0 does not count here. */
export const builtAddon = addonOrNull()

/** A suite that needs the addon: `node scripts/build-native.mjs` builds it. */
export const describeNative = describeIf(
  builtAddon !== null,
  'the addon is not built: node scripts/build-native.mjs',
)

/** The addon with nonces that a test gives it, one after the other: the only way to choose one. */
export function nativeWithNonces(): NativeParts & { nextNonce(nonce: Uint8Array): void } {
  let next: Uint8Array | undefined
  const parts = (builtAddon as NativeAddon).createCore(() => {
    if (next === undefined) throw new Error('a test gave no nonce')
    // What is left of it is thrown away before the next one.
    const pool = Buffer.alloc(24)
    pool.set(next)
    next = undefined
    return pool
  })
  return {
    ...parts,
    nextNonce(nonce) {
      parts.forgetNonces()
      next = nonce
    },
  }
}
