/** Master keys in key services, by the names that the environment has for them. The service's code is loaded at the first call. */
import { readFile } from 'node:fs/promises'
import { isKeystoreError, MasterKeyError } from '../errors.js'
import { awsKeyName, azureKeyName, gcpKeyName, parseVaultUrl, vaultKeyName } from './kms/key-names.js'
import { once } from './kms/once.js'
import { parsePkcs11Uri, pkcs11Id } from './kms/pkcs11-uri.js'
import type { MasterKey } from './master-key.js'
import { type Environment, variable } from './variables.js'

type Maker = (name: string, env: Environment) => MasterKey

const MAKERS: Readonly<Record<string, Maker>> = {
  'aws-kms:': (keyId) =>
    lazily(awsKeyName(keyId).id, async () => (await import('./kms/aws.js')).awsMasterKey({ keyId })),
  'azure-kv:': (keyId) =>
    lazily(azureKeyName(keyId).id, async () => (await import('./kms/azure.js')).azureMasterKey({ keyId })),
  'gcp-kms:': (keyName) =>
    lazily(gcpKeyName(keyName).id, async () => (await import('./kms/gcp.js')).gcpMasterKey({ keyName })),
  'vault:': vaultKey,
  'pkcs11:': pkcs11Key,
}

/** An ARN, a URL, a prefix in another spelling, a resource name of Google's. Base64 has no colon. */
const LIKE_A_NAME = /^([a-z][a-z0-9+._ -]*:|projects\/)/i

/**
 * The master key that a text names: `aws-kms:` and the ARN, `azure-kv:` and the identifier of a version, `gcp-kms:` and the resource name,
 * `vault:https://<host>/<mount>/keys/<key>`, or a `pkcs11:` URI (RFC 7512).
 *
 * @param source what the text came from, for messages
 * @returns null if the text begins with none of these, and looks like no other name of a key: it is a key itself
 * @throws MasterKeyError `ERR_MASTER_KEY`
 */
export function serviceKey(text: string, source: string, env: Environment): MasterKey | null {
  const prefix = Object.keys(MAKERS).find((name) => text.startsWith(name))
  const make = prefix === undefined ? undefined : MAKERS[prefix]
  if (prefix === undefined || make === undefined) {
    if (!LIKE_A_NAME.test(text)) return null
    const prefixes = Object.keys(MAKERS).join(', ')
    throw new MasterKeyError(
      'ERR_MASTER_KEY',
      `${source} looks like the name of a key in a key service: names begin with one of ${prefixes} in lower case, such as aws-kms:arn:aws:kms:…`,
    )
  }
  try {
    return make(text.slice(prefix.length), env)
  } catch (error) {
    if (!isKeystoreError(error) || error.code !== 'ERR_INVALID_ARGUMENT') throw error
    throw new MasterKeyError(
      'ERR_MASTER_KEY',
      `${source} begins with ${prefix} but names no key: ${error.message}`,
    )
  }
}

/** Whether a text begins as the name of a key in a key service does. */
export function isServiceName(text: string): boolean {
  return Object.keys(MAKERS).some((prefix) => text.startsWith(prefix))
}

function lazily(id: string, load: () => Promise<MasterKey>): MasterKey {
  const key = once(load)
  return {
    id,
    wrap: async (dataKey, aad, owner) => (await key()).wrap(dataKey, aad, owner),
    unwrap: async (wrapped, aad, owner) => (await key()).unwrap(wrapped, aad, owner),
  }
}

/**
 * `PKCS11_MODULE` where the URI names no module. `PKCS11_PIN_FILE` or `PKCS11_PIN` where it names no file with the PIN: what a URI names is
 * that key's own, since tokens have different PINs, and lock after a few wrong ones.
 */
function pkcs11Key(attributes: string, env: Environment): MasterKey {
  const named = parsePkcs11Uri(`pkcs11:${attributes}`)
  const id = pkcs11Id(named)
  const module = named.module ?? variable(env, 'PKCS11_MODULE')?.trim()
  if (module === undefined) {
    throw new MasterKeyError(
      'ERR_MASTER_KEY',
      `Master key ${id} needs a module: set PKCS11_MODULE to the path of the library that speaks with the token`,
    )
  }
  const options = { ...(named.pinFile === undefined ? sharedPin(id, env) : {}), ...named, module }
  return lazily(id, async () => (await import('./kms/pkcs11.js')).pkcs11MasterKey(options))
}

/** The PIN of every token whose URI names none. */
function sharedPin(id: string, env: Environment): { readonly pin?: string; readonly pinFile?: string } {
  const [pin, pinFile] = [variable(env, 'PKCS11_PIN'), variable(env, 'PKCS11_PIN_FILE')?.trim()]
  if (pin !== undefined && pinFile !== undefined)
    throw new MasterKeyError(
      'ERR_MASTER_KEY',
      `Master key ${id} could take its PIN from PKCS11_PIN and from PKCS11_PIN_FILE: unset one of them, or name a file as ?pin-source= in its URI`,
    )
  return { ...(pin !== undefined && { pin }), ...(pinFile !== undefined && { pinFile }) }
}

/**
 * `VAULT_ADDR`, which agents set, says whom to ask; the name stays the key's id, also when the server has moved. `VAULT_TOKEN`, or
 * `VAULT_TOKEN_FILE`, which is read for each request, since an agent renews it. `VAULT_NAMESPACE`.
 */
function vaultKey(url: string, env: Environment): MasterKey {
  const named = parseVaultUrl(url)
  const namespace = variable(env, 'VAULT_NAMESPACE')?.trim()
  const { key, mount } = named
  const { id } = vaultKeyName({ ...named, namespace })
  const address = vaultAddress(env) ?? named.address
  const token = vaultToken(id, env)
  const options = { address, key, mount, token, id, ...(namespace === undefined ? {} : { namespace }) }
  return lazily(id, async () => (await import('./kms/vault.js')).vaultMasterKey(options))
}

/** @throws MasterKeyError `ERR_MASTER_KEY` that names the variable */
function vaultAddress(env: Environment): string | undefined {
  const address = variable(env, 'VAULT_ADDR')?.trim()
  if (address === undefined) return undefined
  try {
    return vaultKeyName({ address, key: 'any', mount: 'transit' }).address
  } catch (error) {
    if (!isKeystoreError(error)) throw error
    throw new MasterKeyError('ERR_MASTER_KEY', `VAULT_ADDR is no address of a Vault: ${error.message}`)
  }
}

function vaultToken(id: string, env: Environment): string | (() => Promise<string>) {
  const token = variable(env, 'VAULT_TOKEN')
  const path = variable(env, 'VAULT_TOKEN_FILE')?.trim()
  if (token !== undefined && path !== undefined)
    throw new MasterKeyError(
      'ERR_MASTER_KEY',
      'VAULT_TOKEN and VAULT_TOKEN_FILE are both set: unset one of them',
    )
  if (token !== undefined) return token
  if (path === undefined) {
    throw new MasterKeyError(
      'ERR_MASTER_KEY',
      `Master key ${id} needs a token: set VAULT_TOKEN, or VAULT_TOKEN_FILE to the file that an agent writes`,
    )
  }
  return async () => {
    try {
      return await readFile(path, 'utf8')
    } catch (error) {
      const reason = error instanceof Error && 'code' in error ? String(error.code) : 'unreadable'
      throw new MasterKeyError('ERR_MASTER_KEY', `VAULT_TOKEN_FILE ${path} cannot be read (${reason})`, {
        reason: 'denied',
      })
    }
  }
}
