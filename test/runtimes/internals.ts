/** What the vectors need of the library, some of it not published: `npm run test:runtimes` bundles it as internals.mjs. */
export { hmacSha256, importKey, XaesKey } from '../../src/format/aead.js'
export { contextPieces } from '../../src/format/context.js'
export { preAuthEncode, preAuthExtend } from '../../src/format/encoding.js'
export { parseToken, tokenAad } from '../../src/format/token.js'
export * from '../../src/index.js'
export { DataKey } from '../../src/keys/data-key.js'
export { unwrapDataKey } from '../../src/master-keys/key-wrap.js'
