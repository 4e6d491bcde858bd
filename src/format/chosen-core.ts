/** Which core this process works with: the native one where it is installed and proves itself, else JavaScript. */
import type { Core } from './core.js'
import { javascriptCore } from './javascript-core.js'
import { loadAddon, NoAddon } from './native-addon.js'
import { nativeCore } from './native-core.js'
import { passesSelfTest } from './self-test.js'

/** What tokens are encrypted and decrypted with, and why. */
export interface CryptoCore {
  readonly name: Core['name']
  readonly reason: string
}

interface Choice extends CryptoCore {
  readonly core: Core
  /** The native core is installed in vain. */
  readonly isUnusable: boolean
}

let choice: Choice | undefined

function chosen(): Choice {
  choice ??= choose()
  return choice
}

function choose(): Choice {
  const addon = loadAddon()
  if (addon instanceof NoAddon) return javascript(addon.reason, addon.isInstalled)
  try {
    const core = nativeCore(addon)
    const reason = 'it is installed, and its self-test passed'
    if (passesSelfTest(core)) return { core, name: 'native', reason, isUnusable: false }
  } catch {
    // What it threw says no more than that.
  }
  return javascript('the self-test of @drizzle-keystore/native failed', true)
}

function javascript(reason: string, isUnusable: boolean): Choice {
  return { core: javascriptCore, name: 'javascript', reason, isUnusable }
}

/** Chosen at the first key or token. */
export function currentCore(): Core {
  return chosen().core
}

/**
 * Which core this process encrypts and decrypts with, and why: the native one if `@drizzle-keystore/native` is installed and proved itself,
 * else JavaScript.
 *
 * @example
 * cryptoCore() // { name: 'javascript', reason: '@drizzle-keystore/native is not installed' }
 */
export function cryptoCore(): CryptoCore {
  const { name, reason } = chosen()
  return { name, reason }
}

/** Why the native core, which is installed, is not in use; null if it is, was never installed, or was turned off. */
export function whyNativeIsUnusable(): string | null {
  const { isUnusable, reason } = chosen()
  return isUnusable ? reason : null
}
