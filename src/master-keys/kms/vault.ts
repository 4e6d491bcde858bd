/** Master keys in the Transit engine of HashiCorp Vault or OpenBao, over HTTP: `drizzle-keystore/kms/vault`. */
import { invalidArgument, MasterKeyError } from '../../errors.js'
import { sha256 } from '../../format/aead.js'
import { kindOf, knownOptions } from '../../validate.js'
import type { MasterKey } from '../master-key.js'
import { vaultKeyName } from './key-names.js'
import { KeyService, REQUEST_LIMIT_MS } from './key-service.js'
import { networkCodeOf } from './network-code.js'
import { once } from './once.js'
import { type Failure, propertyOf, reasonOfStatus } from './service-error.js'

/** The options of {@link vaultMasterKey}. */
export interface VaultMasterKeyOptions {
  /** Where the server is, such as `https://vault.example.com:8200`. http is for this machine alone, such as an agent. */
  readonly address: string
  /** The name of a Transit key of a type that takes associated data: aes256-gcm96 (Vault's default), aes128-gcm96 or chacha20-poly1305. */
  readonly key: string
  /** A token, or a function that is called for each request, such as one that reads what an agent renews. */
  readonly token: string | (() => string | Promise<string>)
  /** Where the Transit engine is mounted. Default `transit`. */
  readonly mount?: string
  /** The namespace of Vault Enterprise or OpenBao. */
  readonly namespace?: string | undefined
  /**
   * The permanent id, recorded as `kek_id`. Default: `vault:` ‖ address ‖ `/` ‖ namespace, mount ‖ `/keys/` ‖ key. Pass the former id when the
   * address has changed, so that the key still opens what it wrapped.
   */
  readonly id?: string
  /** The longest time in milliseconds that one call may take. Default 5000. */
  readonly timeLimitMs?: number | undefined
}

const OPTIONS = {
  address: true,
  key: true,
  token: true,
  mount: true,
  namespace: true,
  id: true,
  timeLimitMs: true,
} as const

/**
 * A master key in Vault or OpenBao. Needs `update` on `<mount>/encrypt/<key>` and `<mount>/decrypt/<key>`. The associated data is SHA-256(AAD),
 * so that the server learns no user. Servers before 1.13 ignore it without a word: they are refused at the first wrap.
 *
 * @throws ERR_INVALID_ARGUMENT
 * @example
 * const masterKeys = vaultMasterKey({ address: 'https://vault.example.com:8200', key: 'keystore', token: () => readFile('/run/vault/token', 'utf8') })
 */
export function vaultMasterKey(options: VaultMasterKeyOptions): MasterKey {
  const {
    address,
    key,
    token,
    mount = 'transit',
    namespace,
    id: permanentId,
    timeLimitMs = REQUEST_LIMIT_MS,
  } = knownOptions(options, OPTIONS, 'vaultMasterKey')
  const name = vaultKeyName({ address, key, mount, namespace })
  if (typeof token !== 'string' && typeof token !== 'function')
    throw invalidArgument(`token must be a string or a function that returns one, got ${kindOf(token)}`)
  if (permanentId !== undefined && (typeof permanentId !== 'string' || !permanentId.startsWith('vault:')))
    throw invalidArgument(`id must be a string that begins with vault:, got ${kindOf(permanentId)}`)
  const id = permanentId ?? name.id
  const service = new KeyService(id, 'Vault')

  async function post(operation: 'encrypt' | 'decrypt', body: Record<string, string>): Promise<unknown> {
    const headers: Record<string, string> = {
      'content-type': 'application/json',
      // An agent in front of the server may insist on it, so that a web page cannot make requests (SSRF).
      'x-vault-request': 'true',
      'x-vault-token': await currentToken(id, token),
    }
    if (namespace !== undefined) headers['x-vault-namespace'] = namespace
    const url = `${name.address}/v1/${name.mount}/${operation}/${name.key}`
    const response = await fetch(url, {
      method: 'POST',
      headers,
      body: JSON.stringify(body),
      // A redirect would take the token to another server.
      redirect: 'manual',
      signal: AbortSignal.timeout(timeLimitMs),
    })
    const answer = parsed(await response.text())
    if (response.status !== 200) throw service.error(failureOf(response.status, answer, operation, url))
    return propertyOf(answer, 'data')
  }
  const ask = (operation: 'encrypt' | 'decrypt', body: Record<string, string>) =>
    service.ask(
      () => ({ reason: 'unavailable' }),
      () => post(operation, body),
    )
  const wrongKey = () => service.error({ reason: 'wrongKey' })

  /** Asks the server to open what it made with other associated data. One that does binds nothing. */
  const binds = (ciphertext: string) =>
    once(async () => {
      try {
        await ask('decrypt', { ciphertext, associated_data: bindingOf(Buffer.of(0)) })
      } catch (error) {
        if (error instanceof MasterKeyError && error.code === 'ERR_UNWRAP_FAILED') return
        throw error
      }
      throw new MasterKeyError(
        'ERR_MASTER_KEY',
        `Master key ${id}: this Vault ignores associated_data, so that a wrapped key would open in any row. It needs Vault 1.13 or OpenBao, ` +
          'and a key of type aes256-gcm96, aes128-gcm96 or chacha20-poly1305',
        { reason: 'wrongKey' },
      )
    })
  let bindingChecked: (() => Promise<void>) | undefined

  return {
    id,
    timeLimitMs,
    async wrap(dataKey, aad) {
      const plaintext = Buffer.from(dataKey.buffer, dataKey.byteOffset, dataKey.byteLength).toString('base64')
      const ciphertext = propertyOf(
        await ask('encrypt', { plaintext, associated_data: bindingOf(aad) }),
        'ciphertext',
      )
      if (typeof ciphertext !== 'string' || !CIPHERTEXT.test(ciphertext)) throw wrongKey()
      bindingChecked ??= binds(ciphertext)
      await bindingChecked()
      return Buffer.from(ciphertext)
    },
    async unwrap(wrapped, aad) {
      const ciphertext = Buffer.from(wrapped).toString('latin1')
      if (!CIPHERTEXT.test(ciphertext)) throw service.error({ reason: 'notOpened' })
      const plaintext = propertyOf(
        await ask('decrypt', { ciphertext, associated_data: bindingOf(aad) }),
        'plaintext',
      )
      if (typeof plaintext !== 'string') throw wrongKey()
      return service.dataKey(Buffer.from(plaintext, 'base64'))
    },
  }
}

/**
 * `vault:` ‖ the version of the key ‖ `:` ‖ base64 of nonce, ciphertext and tag. OpenBao writes the same. Of a data key that is a multiple of three
 * bytes for each type of key that takes associated data, so without padding, and without bits to spare that a reader overlooks.
 */
const CIPHERTEXT = /^vault:v[1-9]\d{0,9}:(?:[A-Za-z0-9+/]{4}){20,64}$/

function bindingOf(aad: Uint8Array): string {
  return sha256([aad]).toString('base64')
}

async function currentToken(id: string, token: VaultMasterKeyOptions['token']): Promise<string> {
  let text: unknown = token
  if (typeof token === 'function') {
    try {
      text = await token()
    } catch (error) {
      if (error instanceof MasterKeyError) throw error
      const what = 'the function `token` failed with an error of its own, which is not shown'
      throw new MasterKeyError('ERR_MASTER_KEY', `Master key ${id}: ${what}`, {
        reason: 'unavailable',
        providerCode: networkCodeOf(error) ?? undefined,
      })
    }
  }
  // A header that fetch refuses is quoted in its error.
  if (typeof text === 'string' && /^[\x21-\x7e]+$/.test(text.trim())) return text.trim()
  throw new MasterKeyError('ERR_MASTER_KEY', `Master key ${id}: the token is empty or no token`, {
    reason: 'denied',
  })
}

/** @returns undefined if it is no JSON */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** developer.hashicorp.com/vault/api-docs#http-status-codes. 400 says by its text alone what is wrong. */
function failureOf(status: number, answer: unknown, operation: 'encrypt' | 'decrypt', url: string): Failure {
  const errors = propertyOf(answer, 'errors')
  const said = Array.isArray(errors) ? errors.join(' ') : ''
  const requestId = propertyOf(answer, 'request_id')
  return {
    reason:
      status === 400
        ? reasonOfText(said, operation)
        : isServers(status)
          ? 'unavailable'
          : reasonOfStatus(status),
    providerCode: `HTTP ${status}`,
    requestId: typeof requestId === 'string' ? requestId : undefined,
    // Of a key that is missing where Transit is, Vault says 400.
    ...(status === 404 && {
      advice: `nothing is at ${url}: check that the mount is that of a Transit engine, in this namespace, and that the address is the server’s alone`,
    }),
  }
}

/** 412: the server has not caught up yet. 472, 473: a standby that does not serve. */
function isServers(status: number): boolean {
  return status === 412 || status === 472 || status === 473
}

function reasonOfText(said: string, operation: 'encrypt' | 'decrypt'): Failure['reason'] {
  if (/key not found/i.test(said)) return 'notFound'
  // min_decryption_version was raised above the wrap's version.
  if (/disallowed by policy|too old/i.test(said)) return 'denied'
  return operation === 'decrypt' ? 'notOpened' : 'denied'
}
