/** Finds and loads `@drizzle-keystore/native`, where it is installed. Bundlers do not see it, and other runtimes do not load it. */

/** What the package gives: its index.d.ts. */
export interface NativeAddon {
  readonly interfaceVersion: number
  /** @param randomBytes gives 24 bytes or more for nonces, fresh in each call; a copy is made of them */
  createCore(randomBytes: () => Uint8Array): NativeParts
}

/** What each function and class does is said at the interfaces in core.ts. Their tokens are texts, and null stands for what is refused. */
export interface NativeParts {
  readonly V3Key: new (
    key: Uint8Array,
    aad?: Uint8Array,
  ) => {
    sealToken(version: number, plaintext: Uint8Array | string, aad?: Uint8Array): string | null
    openToken(token: string, ticket: number, aad?: Uint8Array): Buffer | null
    openTokenText(token: string, ticket: number, aad?: Uint8Array): string | null | undefined
    wrap(key: Uint8Array, aad: Uint8Array): Buffer
    unwrap(wrapped: Uint8Array, aad: Uint8Array): Buffer | null
  }
  readonly V2Key: new (
    key: Uint8Array,
  ) => {
    sealToken(plaintext: Uint8Array | string): string | null
    openToken(token: string, ticket: number): Buffer | null
    openTokenText(token: string, ticket: number): string | null | undefined
    wrap(key: Uint8Array): Buffer
    unwrap(wrapped: Uint8Array): Buffer | null
  }
  /**
   * 1 to 2³¹−1; 0 if the text is malformed as a token of either format.
   *
   * @param ticket a number of this call alone: the call that opens the token next with it need not decode it again
   */
  versionOf(token: string, ticket: number): number
  forgetNonces(): void
}

const PACKAGE = '@drizzle-keystore/native'
const INTERFACE_VERSION = 1

/** Why there is no addon. */
export class NoAddon {
  readonly reason: string
  /** Whether the package is there, and was meant to be used. */
  readonly isInstalled: boolean

  constructor(reason: string, isInstalled = false) {
    this.reason = reason
    this.isInstalled = isInstalled
  }
}

export function loadAddon(): NativeAddon | NoAddon {
  if (process.env.KEYSTORE_NATIVE === '0') return new NoAddon('KEYSTORE_NATIVE=0 turns it off')
  const { bun, deno, electron, openssl } = process.versions ?? {}
  // It calls the OpenSSL that the process has. Others bring BoringSSL, or none.
  if (bun || deno || electron || !openssl?.startsWith('3.'))
    return new NoAddon('this runtime is not Node.js with OpenSSL 3')
  let path: string
  let require: NodeJS.Require
  try {
    // Not imported: bundlers for browsers and Workers would look for it.
    require = process.getBuiltinModule('node:module').createRequire(import.meta.url)
    path = require.resolve(PACKAGE)
  } catch {
    return new NoAddon(`${PACKAGE} is not installed`)
  }
  try {
    const addon: NativeAddon = require(path)
    return addon.interfaceVersion === INTERFACE_VERSION
      ? addon
      : new NoAddon(`${PACKAGE} is of another version: install the version that drizzle-keystore has`, true)
  } catch (error) {
    // Its message may name anything.
    const code = error instanceof Error && 'code' in error ? ` (${error.code})` : ''
    const advice = `install it anew, for this platform (npm rebuild ${PACKAGE})`
    return new NoAddon(`${PACKAGE} cannot be loaded${code}: ${advice}`, true)
  }
}
