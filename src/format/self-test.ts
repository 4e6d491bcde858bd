/** What a core has to prove before it is used: frozen tokens, and that it and the reference open what the other one made. */
import { importKey, KEY_BYTES } from './aead.js'
import type { Core, OpenedText, ParsedToken } from './core.js'
import { javascriptCore } from './javascript-core.js'

const TEXT = 'Schlüssel 🔑'
const VERSION = 0x01020304
/** Under the key 00 01 … 1f. */
const V3_TOKEN =
  'v3:AQIDBEBBQkNERUZHSElKS0xNTk9QUVJTVFVWVy2iLr8jTxYKXMoDfSGuecFUE1AcRkYKEUOMntQem8IO18U6wpPSLJXI3rsNVpwziOVnUKkMUZ7EvzF399PW_Q'
const V2_TOKEN = 'v2:QEFCQ0RFRkdISUpLsdrGT-WA9HCoqDfGBPCCrw29QWri6VNfLZF2xpT8ow=='

export function passesSelfTest(core: Core): boolean {
  const key = () => Buffer.from(Array.from({ length: KEY_BYTES }, (_, index) => index))
  const aad = Buffer.from('self-test')
  const [v3, v2] = [core.v3Key(key), core.v2Key(importKey(key()))]
  const [v3Reference, v2Reference] = [javascriptCore.v3Key(key), javascriptCore.v2Key(importKey(key()))]
  const bytes = Buffer.from(TEXT)
  const openV3 = (token: ParsedToken) => v3.openTokenText(token, aad)
  const openV2 = (token: ParsedToken) => v2.openTokenText(token)
  const isSame = (opened: Buffer | null) => opened !== null && bytes.equals(opened)
  const parse = (token: string) => core.parse(token) as ParsedToken
  const [madeV3, madeV2] = [v3.sealToken(VERSION, TEXT, aad), v2.sealToken(bytes)]
  const [wrapV3, wrapV2] = [v3.wrap(key(), aad), v2.wrap(key())]
  return (
    parse(V3_TOKEN).version === VERSION &&
    // In commitment, tag, ciphertext and nonce; in tag, ciphertext and nonce.
    opensOnly(core, V3_TOKEN, [5, 50, 70, 90], openV3) &&
    opensOnly(core, V3_TOKEN, [5, 50, 70, 90], ({ text }) => v3.openUnparsedText(text, aad)) &&
    v3.openUnparsedText(`${V3_TOKEN}=`, aad) === null &&
    v3.openUnparsedText(V3_TOKEN, bytes) === null &&
    [0, VERSION].includes(core.versionAtStart(V3_TOKEN)) &&
    opensOnly(core, V2_TOKEN, [5, 30, 50], openV2) &&
    v3.openTokenText(parse(V3_TOKEN), bytes) === null &&
    isSame(v3.openToken(parse(V3_TOKEN), aad)) &&
    isSame(v3.openUnparsed(V3_TOKEN, aad)) &&
    isSame(v2.openToken(parse(V2_TOKEN))) &&
    // It draws a nonce of its own for each.
    madeV3 !== v3.sealToken(VERSION, TEXT, aad) &&
    madeV2 !== v2.sealToken(bytes) &&
    v3Reference.openTokenText(javascriptCore.parse(madeV3) as ParsedToken, aad) === TEXT &&
    v2Reference.openTokenText(javascriptCore.parse(madeV2) as ParsedToken) === TEXT &&
    v3.unwrap(v3Reference.wrap(key(), aad), aad)?.equals(key()) === true &&
    v2.unwrap(v2Reference.wrap(key()))?.equals(key()) === true &&
    v3Reference.unwrap(wrapV3, aad)?.equals(key()) === true &&
    v2Reference.unwrap(wrapV2)?.equals(key()) === true &&
    v3.unwrap(wrapV3, bytes) === null &&
    v2.unwrap(wrapV2.map((byte) => byte ^ 1)) === null
  )
}

/** Opens the token, refuses it with one character changed, counted from its end, and refuses a character too many. */
function opensOnly(
  core: Core,
  token: string,
  changes: readonly number[],
  open: (token: ParsedToken) => OpenedText,
): boolean {
  return (
    open(core.parse(token) as ParsedToken) === TEXT &&
    core.parse(`${token}=`) === null &&
    core.parse(`${token} `) === null &&
    changes.every((change) => {
      const at = token.length - change
      const other = token[at] === 'A' ? 'B' : 'A'
      return open(core.parse(token.slice(0, at) + other + token.slice(at + 1)) as ParsedToken) === null
    })
  )
}
