/** Master keys in key services, named in the environment. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { memoryKeyStore } from '../../src/adapters/memory.js'
import {
  EnvelopeCrypto,
  generateMasterKey,
  localMasterKey,
  masterKeysFromEnv,
  masterKeysFromFile,
  resolveMasterKey,
} from '../../src/index.js'
import { runInApplication } from '../support/bare-application.js'
import { cleanUpAfterEach } from '../support/cleanups.js'
import { errorOf, keystoreErrorOf } from '../support/errors.js'
import { AWS_KEY, AWS_REPLICAS } from '../support/kms-aws.js'
import { GCP_KEY } from '../support/kms-gcp.js'
import type { KeyServer } from '../support/kms-server.js'
import { startVault, VAULT_TOKEN } from '../support/kms-vault.js'
import { expectWithout, textForms } from '../support/leaks.js'
import { warningsOf } from '../support/warnings.js'

const cleanups = cleanUpAfterEach()
const AZURE_KEY = 'https://example.vault.azure.net/keys/keystore/0123456789abcdef0123456789abcdef'
const VAULT_KEY = 'https://vault.example.com:8200/transit/keys/keystore'
const TOKEN = { VAULT_TOKEN }
const idOf = (text: string, env: Record<string, string> = {}) =>
  masterKeysFromEnv({ API_KEY_MASTER_KEY: text, ...env }).primary.id

describe('a key service in API_KEY_MASTER_KEY', () => {
  it.each([
    [`aws-kms:${AWS_KEY}`, `aws-kms:${AWS_KEY}`, {}],
    [
      `aws-kms:${AWS_REPLICAS[1]}`,
      'aws-kms:arn:aws:kms::111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab',
      {},
    ],
    [`azure-kv:${AZURE_KEY}`, `azure-kv:${AZURE_KEY}`, {}],
    [`gcp-kms:${GCP_KEY}`, `gcp-kms:${GCP_KEY}`, {}],
    [`vault:${VAULT_KEY}`, `vault:${VAULT_KEY}`, TOKEN],
    [
      `vault:${VAULT_KEY}`,
      'vault:https://vault.example.com:8200/apps/transit/keys/keystore',
      { ...TOKEN, VAULT_NAMESPACE: 'apps' },
    ],
    [
      'pkcs11:token=a%20b;object=kek',
      'pkcs11:token=a%20b;object=kek',
      { PKCS11_MODULE: '/usr/lib/m.so', PKCS11_PIN: '1234' },
    ],
    [`  gcp-kms:${GCP_KEY}\n`, `gcp-kms:${GCP_KEY}`, {}],
  ])('%s', (text, id, env) => {
    expect(idOf(text, env)).toBe(id)
  })

  it('may be in the file, with any mode, and among previous keys beside keys of its own', async () => {
    const folder = cleanups.folder()
    const path = join(folder, 'key')
    writeFileSync(path, `gcp-kms:${GCP_KEY}\n`, { mode: 0o644 })
    const local = generateMasterKey()
    const env = { API_KEY_MASTER_KEY_FILE: path, API_KEY_MASTER_KEY_PREVIOUS: `${local} aws-kms:${AWS_KEY}` }
    expect(await warningsOf(() => masterKeysFromEnv(env))).toEqual([])
    expect(masterKeysFromEnv(env).all.map(({ id }) => id)).toEqual([
      `gcp-kms:${GCP_KEY}`,
      localMasterKey(local).id,
      `aws-kms:${AWS_KEY}`,
    ])
    expect(masterKeysFromFile(path).primary.id).toBe(`gcp-kms:${GCP_KEY}`)
  })

  it.each([
    [
      'aws-kms:alias/keystore',
      {},
      'API_KEY_MASTER_KEY begins with aws-kms: but names no key: keyId must be the ARN',
    ],
    ['azure-kv:https://example.vault.azure.net/keys/keystore', {}, 'identifier of one version'],
    ['gcp-kms:keystore', {}, 'resource name of a key'],
    ['vault:https://vault.example.com/transit', TOKEN, 'vault:https://<host>/<mount>/keys/<key>'],
    ['vault:http://vault.example.com/transit/keys/k', TOKEN, 'must begin with https://'],
    [`vault:${VAULT_KEY}`, {}, 'set VAULT_TOKEN, or VAULT_TOKEN_FILE'],
    [`vault:${VAULT_KEY}`, { ...TOKEN, VAULT_TOKEN_FILE: '/run/token' }, 'are both set'],
    ['pkcs11:token=t;object=k', {}, 'set PKCS11_MODULE'],
    ['pkcs11:token=t', { PKCS11_MODULE: 'm.so' }, 'names no key'],
    [
      'pkcs11:token=t;object=k',
      { PKCS11_MODULE: 'm.so', PKCS11_PIN: '1', PKCS11_PIN_FILE: 'f' },
      'Master key pkcs11:token=t;object=k could take its PIN from PKCS11_PIN and from PKCS11_PIN_FILE',
    ],
    ['vault:https://vault.example.com/v1/transit/keys/k', TOKEN, 'must not begin with /v1'],
    [`vault:${VAULT_KEY}`, { ...TOKEN, VAULT_ADDR: 'http://vault.example.com' }, 'VAULT_ADDR is no address'],
    [
      `vault:${VAULT_KEY}`,
      { ...TOKEN, VAULT_ADDR: 'https://vault.example.com/v1' },
      'VAULT_ADDR is no address',
    ],
  ])('refuses %s, and says what to do', async (text, env, said) => {
    const error = await keystoreErrorOf(() => masterKeysFromEnv({ API_KEY_MASTER_KEY: text, ...env }))
    expect(error).toMatchObject({ name: 'MasterKeyError', code: 'ERR_MASTER_KEY', retryable: false })
    expect(error.message).toContain(said)
    expectWithout(textForms(VAULT_TOKEN), error)
  })
})

describe('a name in another spelling', () => {
  it.each([
    AWS_KEY,
    `awskms:${AWS_KEY}`,
    `aws:${AWS_KEY}`,
    `AWS-KMS:${AWS_KEY}`,
    'PKCS11:token=t;object=k',
    AZURE_KEY,
    VAULT_KEY,
    GCP_KEY,
  ])('is not taken for a bad key: %s', async (text) => {
    for (const env of [
      { API_KEY_MASTER_KEY: text },
      { API_KEY_MASTER_KEY: generateMasterKey(), API_KEY_MASTER_KEY_PREVIOUS: text },
    ]) {
      const error = await keystoreErrorOf(() => masterKeysFromEnv(env))
      expect(error).toMatchObject({ name: 'MasterKeyError', code: 'ERR_MASTER_KEY', retryable: false })
      expect(error.message).toContain(
        'looks like the name of a key in a key service: names begin with one of aws-kms:, azure-kv:, gcp-kms:, vault:, pkcs11: in lower case',
      )
      expect(error.message).not.toContain('keystore init')
      expect(error.message).not.toContain(text)
    }
  })

  it('does not keep a key with slashes from being one', () => {
    const text = Buffer.alloc(32, 0xff).fill(1, 0, 3).toString('base64')
    expect(text).toContain('///')
    expect(masterKeysFromEnv({ API_KEY_MASTER_KEY: text }).primary.id).toBe(localMasterKey(text).id)
  })
})

describe('Vault from the environment', () => {
  let server: KeyServer
  beforeEach(async () => {
    server = await startVault()
  })
  afterEach(async () => {
    await server.close()
    expect(server.problems).toEqual([])
  })

  async function roundTrip(env: Record<string, string>, store = memoryKeyStore()) {
    const envelope = await EnvelopeCrypto.open({
      store,
      masterKeys: masterKeysFromEnv(env),
      closeStore: false,
    })
    const token = await envelope.encrypt('alice', 'x')
    await envelope.close()
    const other = await EnvelopeCrypto.open({ store, masterKeys: masterKeysFromEnv(env), closeStore: false })
    expect(await other.decrypt('alice', token)).toBe('x')
    await other.close()
    const [row] = await store.list({ limit: 1 })
    await store.close()
    return row
  }

  it('encrypts and decrypts, with a token file that is read for each request', async () => {
    const path = join(cleanups.folder(), 'token')
    writeFileSync(path, 'stale\n')
    const env = { API_KEY_MASTER_KEY: `vault:${server.url}/transit/keys/first`, VAULT_TOKEN_FILE: path }
    const { primary } = masterKeysFromEnv(env)
    const key = Buffer.alloc(32, 7)
    const owner = { userId: 'alice', version: 1, tenantId: null }
    expect(await errorOf(async () => primary.wrap(key, key, owner))).toMatchObject({ reason: 'denied' })
    writeFileSync(path, `${VAULT_TOKEN}\n`)
    await primary.wrap(key, key, owner)
    expect(await roundTrip(env)).toMatchObject({ kekId: `vault:${server.url}/transit/keys/first` })
  })

  it('asks VAULT_ADDR, and keeps the id that the variable names', async () => {
    const id = 'vault:https://former.example.com/transit/keys/first'
    const row = await roundTrip({ API_KEY_MASTER_KEY: id, VAULT_ADDR: server.url, VAULT_TOKEN })
    expect(row).toMatchObject({ kekId: id })
    expect(server.requests.length).toBeGreaterThan(0)
  })

  it('says that the token file cannot be read', async () => {
    const env = {
      API_KEY_MASTER_KEY: `vault:${server.url}/transit/keys/first`,
      VAULT_TOKEN_FILE: '/nowhere/token',
    }
    const error = await errorOf(
      EnvelopeCrypto.open({ store: memoryKeyStore(), masterKeys: masterKeysFromEnv(env) }).then((envelope) =>
        envelope.encrypt('alice', 'x'),
      ),
    )
    expect(error.message).toContain('VAULT_TOKEN_FILE /nowhere/token cannot be read (ENOENT)')
  })
})

describe('a hexadecimal key', () => {
  const hex = Buffer.from(generateMasterKey(), 'base64url').toString('hex')
  it.each([hex, hex.toUpperCase(), `0x${hex}`, ` ${hex}\n`])(
    'is refused, and said to be hexadecimal',
    async (text) => {
      const path = join(cleanups.folder(), 'master.key')
      mkdirSync(join(path, '..'), { recursive: true })
      writeFileSync(path, text, { mode: 0o600 })
      for (const read of [
        () => masterKeysFromEnv({ API_KEY_MASTER_KEY: text }),
        () => masterKeysFromEnv({ API_KEY_MASTER_KEY_FILE: path }),
        () =>
          masterKeysFromEnv({ API_KEY_MASTER_KEY: generateMasterKey(), API_KEY_MASTER_KEY_PREVIOUS: text }),
        () => masterKeysFromFile(path),
        () => localMasterKey(text),
      ]) {
        const error = await keystoreErrorOf(read)
        expect(error.code).toMatch(/^ERR_(MASTER_KEY|INVALID_ARGUMENT)$/)
        expect(error.message).toContain(
          'is hexadecimal, and base64 is wanted: convert it with `… | xxd -r -p | base64`',
        )
        expect(error.message.toLowerCase()).not.toContain(hex.slice(0, 8))
      }
      const warnings = await warningsOf(() => resolveMasterKey({ API_KEY_MASTER_KEY: text }))
      expect(warnings.join()).toContain('is hexadecimal')
    },
  )
})

describe('an application without the SDK', () => {
  it.each([
    [`aws-kms:${AWS_KEY}`, '@aws-sdk/client-kms'],
    [`azure-kv:${AZURE_KEY}`, '@azure/keyvault-keys'],
    [`gcp-kms:${GCP_KEY}`, '@google-cloud/kms'],
    ['pkcs11:token=t;object=k?module-path=/m.so', 'pkcs11js'],
  ])('%s: starts, and says at the first call what to install', async (text, name) => {
    const code = `
      import { masterKeysFromEnv } from 'drizzle-keystore'
      const { primary } = masterKeysFromEnv({ API_KEY_MASTER_KEY: ${JSON.stringify(text)} })
      const key = new Uint8Array(32).fill(7)
      for (const call of [() => primary.wrap(key, key, {}), () => primary.wrap(key, key, {})])
        await call().catch(({ code, message, retryable }) => console.log(JSON.stringify({ code, retryable, message })))`
    const lines = (await runInApplication(cleanups.folder(), [], code)).trim().split('\n')
    expect(lines).toHaveLength(2)
    for (const line of lines) {
      const { code: errorCode, message, retryable } = JSON.parse(line)
      expect([errorCode, retryable]).toEqual(['ERR_MASTER_KEY', false])
      expect(message).toContain(`npm install ${name}`)
    }
  })
})
