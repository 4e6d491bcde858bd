/** Our providers, each with its real SDK (Vault: real HTTP) and a server of the tests: what all of them must hold loops over these. */
import { KMS } from '@aws-sdk/client-kms'
import { awsMasterKey } from '../../src/master-keys/kms/aws.js'
import { azureMasterKey } from '../../src/master-keys/kms/azure.js'
import { gcpMasterKey } from '../../src/master-keys/kms/gcp.js'
import { vaultMasterKey } from '../../src/master-keys/kms/vault.js'
import type { MasterKey } from '../../src/master-keys/master-key.js'
import { AWS_KEY, AWS_OTHER_KEY, startAwsKms } from './kms-aws.js'
import { AZURE_NAMES, AZURE_TOKEN, azureClient, startAzureVault } from './kms-azure.js'
import { GCP_KEY, GCP_OTHER_KEY, GCP_TOKEN, gcpClient, startGcpKms } from './kms-gcp.js'
import type { KeyServer } from './kms-server.js'
import { startVault, VAULT_TOKEN } from './kms-vault.js'

export const AWS_SECRET = 'the-secret-access-key-of-the-test'

export interface StartedProvider {
  readonly server: KeyServer
  /** A new instance of the first key. */
  key(timeLimitMs?: number): MasterKey
  /** An instance of another key of the same service. */
  otherKey(): MasterKey
}

export interface Provider {
  readonly name: string
  readonly start: () => Promise<StartedProvider>
  /** What may be in no error. */
  readonly secrets: readonly string[]
  /** Whether an answer to unwrap that is another key's can be told. Vault's and Google's names no key. */
  readonly tellsOtherKey: boolean
}

export function awsClient(endpoint: string): KMS {
  const credentials = { accessKeyId: 'AKIDTEST', secretAccessKey: AWS_SECRET }
  return new KMS({ region: 'eu-central-1', endpoint, credentials, maxAttempts: 1 })
}

const limit = (timeLimitMs: number | undefined) => (timeLimitMs === undefined ? {} : { timeLimitMs })

export const providers: readonly Provider[] = [
  {
    name: 'aws',
    secrets: [AWS_SECRET],
    tellsOtherKey: true,
    async start() {
      const server = await startAwsKms()
      const key = (keyId: string, timeLimitMs?: number) =>
        awsMasterKey({ keyId, client: awsClient(server.url), ...limit(timeLimitMs) })
      return { server, key: (timeLimitMs) => key(AWS_KEY, timeLimitMs), otherKey: () => key(AWS_OTHER_KEY) }
    },
  },
  {
    name: 'azure',
    secrets: [AZURE_TOKEN],
    tellsOtherKey: true,
    async start() {
      const server = await startAzureVault()
      const key = (name = '', timeLimitMs?: number) =>
        azureMasterKey({
          keyId: server.url + name,
          client: azureClient(server.url + name),
          ...limit(timeLimitMs),
        })
      return {
        server,
        key: (timeLimitMs) => key(AZURE_NAMES[0], timeLimitMs),
        otherKey: () => key(AZURE_NAMES[1]),
      }
    },
  },
  {
    name: 'gcp',
    secrets: [GCP_TOKEN],
    tellsOtherKey: false,
    async start() {
      const server = await startGcpKms()
      const key = (keyName: string, timeLimitMs?: number) =>
        gcpMasterKey({ keyName, client: gcpClient(server.port), ...limit(timeLimitMs) })
      return { server, key: (timeLimitMs) => key(GCP_KEY, timeLimitMs), otherKey: () => key(GCP_OTHER_KEY) }
    },
  },
  {
    name: 'vault',
    secrets: [VAULT_TOKEN],
    tellsOtherKey: false,
    async start() {
      const server = await startVault()
      const key = (name: string, timeLimitMs?: number) =>
        vaultMasterKey({ address: server.url, key: name, token: VAULT_TOKEN, ...limit(timeLimitMs) })
      return { server, key: (timeLimitMs) => key('first', timeLimitMs), otherKey: () => key('other') }
    },
  },
]
