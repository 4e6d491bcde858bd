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
  /** Whether operators want to know: it is in use, or was installed in vain. */
  readonly isRemarkable: boolean
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
    if (passesSelfTest(core)) {
      return { core, name: 'native', reason: 'it is installed, and its self-test passed', isRemarkable: true }
    }
  } catch {
    // What it threw says no more than that.
  }
  return javascript('the self-test of @drizzle-keystore/native failed', true)
}

function javascript(reason: string, isRemarkable: boolean): Choice {
  return { core: javascriptCore, name: 'javascript', reason, isRemarkable }
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

/** {@link cryptoCore} for the event; null for who never installed it, or turned it off. */
export function remarkableCore(): CryptoCore | null {
  return chosen().isRemarkable ? cryptoCore() : null
}
