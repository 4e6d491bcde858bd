/** Master keys in key services, by the names that the environment has for them. The service's code is loaded at the first call. */
import { readFile } from 'node:fs/promises'
import { isKeystoreError, MasterKeyError } from '../errors.js'
import { awsKeyName, azureKeyName, gcpKeyName, parseVaultUrl, vaultKeyName } from './kms/key-names.js'
import { parsePkcs11Uri, pkcs11Id } from './kms/pkcs11-uri.js'
import { singleFlight } from './kms/single-flight.js'
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

/**
 * The master key that a text names: `aws-kms:` and the ARN, `azure-kv:` and the identifier of a version, `gcp-kms:` and the resource name,
 * `vault:https://<host>/<mount>/keys/<key>`, or a `pkcs11:` URI (RFC 7512).
 *
 * @param source what the text came from, for messages
 * @returns null if the text begins with none of these: it is a key itself
 * @throws MasterKeyError `ERR_MASTER_KEY`
 */
export function serviceKey(text: string, source: string, env: Environment): MasterKey | null {
  const prefix = Object.keys(MAKERS).find((name) => text.startsWith(name))
  const make = prefix === undefined ? undefined : MAKERS[prefix]
  if (prefix === undefined || make === undefined) return null
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

function lazily(id: string, load: () => Promise<MasterKey>): MasterKey {
  const key = singleFlight(load)
  return {
    id,
    wrap: async (dataKey, aad, owner) => (await key()).wrap(dataKey, aad, owner),
    unwrap: async (wrapped, aad, owner) => (await key()).unwrap(wrapped, aad, owner),
  }
}

/** `PKCS11_MODULE` where the URI names no module. `PKCS11_PIN_FILE` or `PKCS11_PIN` where it names no file with the PIN. */
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
  const [pin, file] = [variable(env, 'PKCS11_PIN'), variable(env, 'PKCS11_PIN_FILE')?.trim()]
  const pinFile = named.pinFile ?? file
  if (pin !== undefined && pinFile !== undefined)
    throw new MasterKeyError(
      'ERR_MASTER_KEY',
      'PKCS11_PIN and a file with the PIN are both given: unset one of them',
    )
  const options = {
    ...named,
    module,
    ...(pin === undefined ? {} : { pin }),
    ...(pinFile === undefined ? {} : { pinFile }),
  }
  return lazily(id, async () => (await import('./kms/pkcs11.js')).pkcs11MasterKey(options))
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
  const address = variable(env, 'VAULT_ADDR')?.trim() ?? named.address
  vaultKeyName({ address, key, mount })
  const token = vaultToken(id, env)
  const options = { address, key, mount, token, id, ...(namespace === undefined ? {} : { namespace }) }
  return lazily(id, async () => (await import('./kms/vault.js')).vaultMasterKey(options))
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
