/**
 * Names of keys in key services: how each service writes them, and which KEK id a row gets. A KEK id is permanent, so a name that may
 * come to mean another key (an alias, a key without its version) is refused.
 *
 * The core reads these names from the environment, so nothing here loads an SDK.
 */
import { invalidArgument } from '../../errors.js'
import { kindOf } from '../../validate.js'

export interface AwsKeyName {
  readonly id: string
  readonly arn: string
  readonly region: string
}

// docs.aws.amazon.com/kms/latest/developerguide/concepts.html#key-id-key-ARN. Partitions: aws, aws-cn, aws-us-gov …
const AWS_ARN = /^arn:(aws[a-z-]*):kms:([a-z0-9-]+):(\d{12}):key\/([A-Za-z0-9-]+)$/

/**
 * Replicas of a multi-region key (`mrk-…`) are one key in several regions: the id leaves the region out, so that each opens what another
 * wrapped.
 *
 * @throws ERR_INVALID_ARGUMENT unless it is the ARN of a key
 */
export function awsKeyName(keyId: unknown): AwsKeyName {
  const arn = textOf('keyId', keyId)
  const found = AWS_ARN.exec(arn)
  if (found === null) {
    throw invalidArgument(
      'keyId must be the ARN of an AWS KMS key (arn:aws:kms:<region>:<account>:key/<id>). An alias may come to mean another key, and an id ' +
        'alone names no account: `aws kms describe-key --key-id <alias or id> --query KeyMetadata.Arn` shows the ARN',
    )
  }
  const [, partition = '', region = '', account = '', key = ''] = found
  const place = key.startsWith('mrk-') ? '' : region
  return { id: `aws-kms:arn:${partition}:kms:${place}:${account}:key/${key}`, arn, region }
}

export interface AzureKeyName {
  readonly id: string
  readonly url: string
}

const AZURE_PATH = /^\/keys\/[A-Za-z0-9-]{1,127}\/[0-9a-f]{32}$/

/** @throws ERR_INVALID_ARGUMENT unless it is the identifier of one version of a key in a Key Vault or a Managed HSM */
export function azureKeyName(keyId: unknown): AzureKeyName {
  const url = serviceUrl('keyId', keyId)
  if (!AZURE_PATH.test(url.pathname)) {
    throw invalidArgument(
      'keyId must be the identifier of one version of a key (https://<vault>.vault.azure.net/keys/<name>/<version>): without the version it ' +
        'would come to mean another key at the next rotation. `az keyvault key show --vault-name <vault> --name <name> --query key.kid` shows it',
    )
  }
  return { id: `azure-kv:${url.href}`, url: url.href }
}

export interface GcpKeyName {
  readonly id: string
  readonly name: string
}

const GCP_NAME = /^projects\/[^/\s]+\/locations\/[^/\s]+\/keyRings\/[^/\s]+\/cryptoKeys\/[^/\s]+$/

/** @throws ERR_INVALID_ARGUMENT unless it is the resource name of a key, without a version: Google's answer says itself which version it used */
export function gcpKeyName(keyName: unknown): GcpKeyName {
  const name = textOf('keyName', keyName)
  if (!GCP_NAME.test(name)) {
    throw invalidArgument(
      'keyName must be the resource name of a key, without a version ' +
        '(projects/<project>/locations/<location>/keyRings/<ring>/cryptoKeys/<key>)',
    )
  }
  return { id: `gcp-kms:${name}`, name }
}

export interface VaultKeyName {
  readonly id: string
  /** Without a slash at the end. */
  readonly address: string
  readonly mount: string
  readonly key: string
}

const IN_API = /^\/v1(\/|$)/
/** As Vault's own examples have it. It would be in the id for ever, and twice in each request. */
const WITHOUT_API =
  'must not begin with /v1, which the requests have by themselves: address is the server alone, such as https://vault.example.com:8200, ' +
  'and mount is what comes after /v1/, such as “transit”'
/** No path of dots, which a URL resolves. */
const VAULT_NAME = /^(?!\.+$)[\w.-]+$/

/**
 * @param parts `namespace` is a part of the id: another namespace's key of the same name is another key
 * @throws ERR_INVALID_ARGUMENT
 */
export function vaultKeyName(parts: {
  readonly address: unknown
  readonly key: unknown
  readonly mount: unknown
  readonly namespace?: unknown
}): VaultKeyName {
  const address = serviceUrl('address', parts.address).href.replace(/\/+$/, '')
  if (IN_API.test(new URL(address).pathname)) throw invalidArgument(`address ${WITHOUT_API}`)
  const key = textOf('key', parts.key)
  if (!VAULT_NAME.test(key)) throw invalidArgument('key must be the name of a Transit key')
  const mount = pathOf('mount', parts.mount)
  if (IN_API.test(`/${mount}`)) throw invalidArgument(`mount ${WITHOUT_API}`)
  const namespace = parts.namespace === undefined ? '' : `${pathOf('namespace', parts.namespace)}/`
  return { id: `vault:${address}/${namespace}${mount}/keys/${key}`, address, mount, key }
}

/** @param url `https://<host>/<mount>/keys/<key>`, with the namespace before the mount if the server has namespaces. @throws ERR_INVALID_ARGUMENT */
export function parseVaultUrl(url: string): VaultKeyName {
  const { origin, pathname } = serviceUrl('address', url)
  const found = /^\/(.+)\/keys\/([^/]+)$/.exec(pathname)
  if (found === null)
    throw invalidArgument(
      'A key of Vault is named as vault:https://<host>/<mount>/keys/<key>, with mount “transit” unless yours differs',
    )
  return vaultKeyName({ address: origin, mount: found[1], key: found[2] })
}

/** A path of names, without slashes around it. */
function pathOf(name: string, value: unknown): string {
  const path = textOf(name, value).replace(/^\/+|\/+$/g, '')
  if (path.split('/').every((part) => VAULT_NAME.test(part))) return path
  throw invalidArgument(`${name} must be a path of names, such as “transit”`)
}

/**
 * @returns a URL whose requests nobody on the way can read: https, or http to this machine, such as an agent in the same pod
 * @throws ERR_INVALID_ARGUMENT
 */
function serviceUrl(name: string, value: unknown): URL {
  const text = textOf(name, value)
  let url: URL
  try {
    url = new URL(text)
  } catch {
    throw invalidArgument(`${name} must be a URL that begins with https://`)
  }
  if (url.username !== '' || url.password !== '')
    throw invalidArgument(`${name} must have no user name and no password in it: it is kept in every row`)
  if (url.search !== '' || url.hash !== '')
    throw invalidArgument(`${name} must have no query and no fragment`)
  if (url.protocol === 'https:' || (url.protocol === 'http:' && LOOPBACK.test(url.hostname))) return url
  throw invalidArgument(
    `${name} must begin with https://; http:// is for this machine alone (127.0.0.1, ::1, localhost)`,
  )
}

const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/

function textOf(name: string, value: unknown): string {
  if (typeof value === 'string' && value.trim() !== '') return value.trim()
  throw invalidArgument(
    `${name} must be a string that is not empty, got ${value === '' ? 'an empty one' : kindOf(value)}`,
  )
}
