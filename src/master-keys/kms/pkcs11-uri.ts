/** PKCS #11 URIs (RFC 7512): which module, token and key. */
import { fileURLToPath } from 'node:url'
import { invalidArgument } from '../../errors.js'

/** What a URI names, as options of `pkcs11MasterKey`. What it does not name is left out. */
export interface Pkcs11Uri {
  /** `module-path`: the path of the module's shared library. */
  readonly module?: string | undefined
  /** The label of the token. */
  readonly token?: string | undefined
  /** The serial number of the token. */
  readonly serial?: string | undefined
  /** The label of the key (CKA_LABEL). */
  readonly object?: string | undefined
  /** The id of the key (CKA_ID). */
  readonly id?: Uint8Array | undefined
  /** `pin-source`: the path of a file that holds the PIN. */
  readonly pinFile?: string | undefined
}

const SCHEME = 'pkcs11:'
/** What names neither a token nor a key of ours would be ignored, and another key taken than was meant. */
const SUPPORTED = 'token, serial, object, id and type in its path, module-path and pin-source in its query'
/** pk11-path and pk11-query (RFC 7512 §2.3): unreserved characters, some others, percent-encoded bytes. */
const VALUE = /^(?:[A-Za-z0-9\-._~:[\]@!$'()*+,=&/?|]|%[0-9A-Fa-f]{2})*$/

/**
 * Reads a PKCS #11 URI (RFC 7512).
 *
 * Takes the attributes `token`, `serial`, `object`, `id` and `type=secret-key`, and the queries `module-path` and `pin-source`. Refuses every
 * other, since one that is left out of account could mean another key. A PIN has no place in a URI, which ends in logs and process lists.
 *
 * @throws ERR_INVALID_ARGUMENT; its message shows no value of the URI
 * @example
 * parsePkcs11Uri('pkcs11:token=payments;object=kek?module-path=/usr/lib/softhsm/libsofthsm2.so')
 */
export function parsePkcs11Uri(uri: string): Pkcs11Uri {
  if (typeof uri !== 'string' || uri.slice(0, SCHEME.length).toLowerCase() !== SCHEME)
    throw invalidArgument('A PKCS #11 URI begins with pkcs11:')
  const [path = '', query, ...more] = uri.slice(SCHEME.length).split('?')
  if (more.length > 0) throw invalidArgument('A PKCS #11 URI has one question mark; write others as %3F')
  const attributes = pairs(path, ';')
  const queries = pairs(query ?? '', '&')
  if (queries.has('pin-value'))
    throw invalidArgument(
      'A PKCS #11 URI must not hold a PIN (pin-value): set PKCS11_PIN_FILE or PKCS11_PIN, or name a file as pin-source',
    )
  if (queries.has('module-name'))
    throw invalidArgument('A PKCS #11 URI must name its module by module-path, not by module-name')
  const take = (from: Map<string, string>, name: string) => {
    const value = from.get(name)
    from.delete(name)
    return value
  }
  const type = take(attributes, 'type')
  if (type !== undefined && type !== 'secret-key')
    throw invalidArgument('The type of a PKCS #11 URI must be secret-key')
  const [token, serial, object] = ['token', 'serial', 'object'].map((name) =>
    text(name, take(attributes, name)),
  )
  const id = take(attributes, 'id')
  const module = text('module-path', take(queries, 'module-path'))
  const pinSource = text('pin-source', take(queries, 'pin-source'))
  const [unknown] = [...attributes.keys(), ...queries.keys()]
  if (unknown !== undefined)
    throw invalidArgument(`A PKCS #11 URI may have ${SUPPORTED}; take out everything else`)
  if (token === undefined && serial === undefined)
    throw invalidArgument('A PKCS #11 URI must name a token: token=LABEL or serial=NUMBER')
  if (object === undefined && id === undefined)
    throw invalidArgument('A PKCS #11 URI must name a key: object=LABEL or id=%01…')
  return {
    ...(module !== undefined && { module }),
    ...(token !== undefined && { token }),
    ...(serial !== undefined && { serial }),
    ...(object !== undefined && { object }),
    ...(id !== undefined && { id: percentDecoded(id) }),
    ...(pinSource !== undefined && { pinFile: pinFileOf(pinSource) }),
  }
}

/** Percent-encodes all bytes but unreserved ones (RFC 3986 §2.3), so that a value has one text only. */
export function percentEncoded(value: string | Uint8Array): string {
  return Buffer.from(value)
    .toString('latin1')
    .replace(
      /[^A-Za-z0-9\-._~]/g,
      (byte) => `%${byte.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`,
    )
}

/** The KEK id of what a URI names, which is no secret and no path. */
export function pkcs11Id({ token, serial, object, id }: Pkcs11Uri): string {
  const parts = Object.entries({ token, serial, object, id })
  const named = parts.flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${percentEncoded(value)}`],
  )
  return SCHEME + named.join(';')
}

function pairs(part: string, separator: string): Map<string, string> {
  const found = new Map<string, string>()
  for (const pair of part === '' ? [] : part.split(separator)) {
    const at = pair.indexOf('=')
    const name = pair.slice(0, at)
    const value = pair.slice(at + 1)
    if (at < 1 || !/^[a-z-]+$/.test(name) || value === '' || !VALUE.test(value))
      throw invalidArgument(
        `A PKCS #11 URI has name=value with “${separator}” between them, and other characters percent-encoded`,
      )
    if (found.has(name)) throw invalidArgument(`A PKCS #11 URI has ${name} twice`)
    found.set(name, value)
  }
  return found
}

function percentDecoded(value: string): Uint8Array {
  const latin1 = value.replace(/%([0-9A-Fa-f]{2})/g, (_, digits) =>
    String.fromCharCode(Number.parseInt(digits, 16)),
  )
  return Uint8Array.from(Buffer.from(latin1, 'latin1'))
}

function text(name: string, value: string | undefined): string | undefined {
  if (value === undefined) return undefined
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(percentDecoded(value))
  } catch {
    throw invalidArgument(`${name} of a PKCS #11 URI must be percent-encoded UTF-8`)
  }
}

/** RFC 7512 §2.4 lets it be a path, a file: URI, or a command after a vertical line. */
function pinFileOf(source: string): string {
  if (source.startsWith('|'))
    throw invalidArgument('pin-source of a PKCS #11 URI must be a file, not a command')
  // A bare word is a PIN that somebody took for it.
  if (source.includes('\0') || /^(?!file:)[a-z][a-z0-9+.-]+:/i.test(source) || !/[/:\\]/.test(source))
    throw invalidArgument(NO_PIN_FILE)
  if (!source.startsWith('file:')) return source
  try {
    return fileURLToPath(source)
  } catch {
    const path = source.slice('file:'.length)
    if (/^\/?[^/]/.test(path)) return path
    throw invalidArgument(NO_PIN_FILE)
  }
}

const NO_PIN_FILE =
  'pin-source of a PKCS #11 URI must be the path of a file that holds the PIN, such as /run/secrets/pin or ./pin, or file:///path; never the PIN itself'
