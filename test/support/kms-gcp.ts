/** Google Cloud KMS as far as Encrypt and Decrypt go, over HTTP and over gRPC: cloud.google.com/kms/docs/reference/rest. */
import { randomBytes } from 'node:crypto'
import { KeyManagementServiceClient, protos } from '@google-cloud/kms'
import { OAuth2Client, type UserRefreshClient } from 'google-auth-library'
import { grpc } from 'google-gax'
import { type Answer, type Fault, type KeyServer, seal, startKeyServer, unseal } from './kms-server.js'

const RING = 'projects/example/locations/europe-west3/keyRings/apps/cryptoKeys'
export const GCP_KEY = `${RING}/first`
export const GCP_OTHER_KEY = `${RING}/other`
export const GCP_TOKEN = 'ya29.a-token-that-nobody-may-see'

/** What a server does wrong on purpose, besides the faults of all: it breaks bytes in transit, or does not verify what it got. */
export interface GcpMistakes {
  breakAnswer: boolean
  unverifiedPlaintext: boolean
  unverifiedAad: boolean
}

const NO_MISTAKES: GcpMistakes = { breakAnswer: false, unverifiedPlaintext: false, unverifiedAad: false }

/** Google's own table-driven CRC-32C would be the same: `crc32c.test.ts` has the vectors of RFC 3720. */
export function slowCrc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes)
    for (let bit = 0; bit < 8; bit++) {
      const isOdd = (crc ^ (byte >>> bit)) & 1
      crc = isOdd ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
    }
  return ~crc >>> 0
}

class GcpError extends Error {
  constructor(
    readonly status: number,
    readonly rpcCode: number,
    readonly rpcName: string,
  ) {
    super(`${rpcName}: the caller secret-application@example.iam is refused`)
  }
}

interface Asked {
  readonly name: string
  readonly bytes: Buffer
  readonly crc: number
  readonly aad: Buffer
  readonly aadCrc: number
}

/** The engine behind both transports. */
function keyEngine(mistakes: GcpMistakes) {
  const keys = new Map([GCP_KEY, GCP_OTHER_KEY].map((name) => [name, randomBytes(32)]))
  return (operation: string, asked: Asked, fault: Fault | null, problems: string[]) => {
    if (asked.aad.length !== 32) problems.push('the additional authenticated data is no hash')
    if (slowCrc32c(asked.bytes) !== asked.crc || slowCrc32c(asked.aad) !== asked.aadCrc)
      problems.push('a wrong checksum')
    if (fault === 'deny') throw new GcpError(403, 7, 'PERMISSION_DENIED')
    if (fault === 'throttle') throw new GcpError(429, 8, 'RESOURCE_EXHAUSTED')
    if (fault === 'notFound') throw new GcpError(404, 5, 'NOT_FOUND')
    if (fault === 'outage') throw new GcpError(503, 14, 'UNAVAILABLE')
    const name = fault === 'otherKey' ? GCP_OTHER_KEY : asked.name
    const key = keys.get(name)
    if (key === undefined) throw new GcpError(404, 5, 'NOT_FOUND')
    // Decrypt's answer names no key: of another one it is no key at all.
    const opened = fault === 'otherKey' ? randomBytes(16) : unseal(key, asked.bytes, asked.aad)
    const bytes = operation === 'encrypt' ? seal(key, asked.bytes, asked.aad) : opened
    if (bytes === null) throw new GcpError(400, 3, 'INVALID_ARGUMENT')
    const crc = slowCrc32c(bytes)
    if (mistakes.breakAnswer) bytes[0] = (bytes[0] ?? 0) ^ 1
    return {
      name: `${name}/cryptoKeyVersions/1`,
      bytes,
      crc,
      verified: [!mistakes.unverifiedPlaintext, !mistakes.unverifiedAad] as const,
    }
  }
}

export async function startGcpKms(): Promise<KeyServer & { readonly mistakes: GcpMistakes }> {
  const mistakes = { ...NO_MISTAKES }
  const engine = keyEngine(mistakes)
  const server = await startKeyServer((request, fault, problems): Answer => {
    if (request.headers.authorization !== `Bearer ${GCP_TOKEN}`) problems.push('no bearer token')
    const [, name = '', operation = ''] =
      /^\/v1\/(projects\/[^:?]+):(encrypt|decrypt)\b/.exec(request.path) ?? []
    const input = JSON.parse(request.body)
    const isEncrypt = operation === 'encrypt'
    const asked = {
      name,
      bytes: Buffer.from(isEncrypt ? input.plaintext : input.ciphertext, 'base64'),
      crc: Number(isEncrypt ? input.plaintextCrc32c : input.ciphertextCrc32c),
      aad: Buffer.from(input.additionalAuthenticatedData, 'base64'),
      aadCrc: Number(input.additionalAuthenticatedDataCrc32c),
    }
    try {
      const { bytes, crc, verified, name: version } = engine(operation, asked, fault, problems)
      const text = bytes.toString('base64')
      const body = isEncrypt
        ? {
            name: version,
            ciphertext: text,
            ciphertextCrc32c: String(crc),
            verifiedPlaintextCrc32c: verified[0],
            verifiedAdditionalAuthenticatedDataCrc32c: verified[1],
          }
        : { plaintext: text, plaintextCrc32c: String(crc), usedPrimary: true }
      return { status: 200, body }
    } catch (error) {
      if (!(error instanceof GcpError)) throw error
      return {
        status: error.status,
        body: { error: { code: error.status, message: error.message, status: error.rpcName } },
      }
    }
  })
  return Object.assign(server, { mistakes })
}

/** Its type names one of the subclasses only. */
function authClient(): UserRefreshClient {
  const client = new OAuth2Client()
  client.setCredentials({ access_token: GCP_TOKEN, expiry_date: Date.now() + 3_600_000 })
  return client as UserRefreshClient
}

/** The real client over HTTP, with a token of the test's. */
export function gcpClient(port: number): KeyManagementServiceClient {
  return new KeyManagementServiceClient({
    fallback: true,
    protocol: 'http',
    apiEndpoint: '127.0.0.1',
    port,
    authClient: authClient(),
    projectId: 'example',
  })
}

type EncryptRequest = protos.google.cloud.kms.v1.EncryptRequest
type DecryptRequest = protos.google.cloud.kms.v1.DecryptRequest

/** A class of messages, as protobufjs generates them. */
interface Message<T> {
  encode(message: T): { finish(): Uint8Array }
  decode(bytes: Uint8Array): T
}

/** The same over gRPC, which the client speaks by default. Without TLS, so without credentials: gRPC sends none in the clear. */
export async function startGcpKmsOverGrpc() {
  const { EncryptRequest, EncryptResponse, DecryptRequest, DecryptResponse } = protos.google.cloud.kms.v1
  const engine = keyEngine(NO_MISTAKES)
  const problems: string[] = []
  const control: { fault: Fault | null } = { fault: null }
  const answering =
    <In, Out>(
      operation: string,
      askedOf: (input: In) => Asked,
      answerOf: (answer: ReturnType<typeof engine>) => Out,
    ) =>
    (call: { request: In }, callback: (error: object | null, answer?: Out) => void) => {
      if (control.fault === 'hang') return
      try {
        callback(null, answerOf(engine(operation, askedOf(call.request), control.fault, problems)))
      } catch (error) {
        if (!(error instanceof GcpError)) throw error
        callback({ code: error.rpcCode, details: error.message })
      }
    }
  const method = <In, Out extends object>(name: string, input: Message<In>, output: Message<Out>) => ({
    path: `/google.cloud.kms.v1.KeyManagementService/${name}`,
    requestStream: false,
    responseStream: false,
    requestSerialize: (request: In) => Buffer.from(input.encode(request).finish()),
    requestDeserialize: (bytes: Buffer) => input.decode(bytes),
    responseSerialize: (answer: Out) => Buffer.from(output.encode(answer).finish()),
    responseDeserialize: (bytes: Buffer) => output.decode(bytes),
  })
  const bufferOf = (bytes: Uint8Array | string) =>
    typeof bytes === 'string' ? Buffer.from(bytes, 'base64') : Buffer.from(bytes)
  const server = new grpc.Server()
  server.addService(
    {
      Encrypt: method('Encrypt', EncryptRequest, EncryptResponse),
      Decrypt: method('Decrypt', DecryptRequest, DecryptResponse),
    },
    {
      Encrypt: answering(
        'encrypt',
        (input: EncryptRequest) => ({
          name: input.name,
          bytes: bufferOf(input.plaintext),
          crc: Number(input.plaintextCrc32c?.value),
          aad: bufferOf(input.additionalAuthenticatedData),
          aadCrc: Number(input.additionalAuthenticatedDataCrc32c?.value),
        }),
        ({ name, bytes, crc, verified }) => ({
          name,
          ciphertext: bytes,
          ciphertextCrc32c: { value: crc },
          verifiedPlaintextCrc32c: verified[0],
          verifiedAdditionalAuthenticatedDataCrc32c: verified[1],
        }),
      ),
      Decrypt: answering(
        'decrypt',
        (input: DecryptRequest) => ({
          name: input.name,
          bytes: bufferOf(input.ciphertext),
          crc: Number(input.ciphertextCrc32c?.value),
          aad: bufferOf(input.additionalAuthenticatedData),
          aadCrc: Number(input.additionalAuthenticatedDataCrc32c?.value),
        }),
        ({ bytes, crc }) => ({ plaintext: bytes, plaintextCrc32c: { value: crc }, usedPrimary: true }),
      ),
    },
  )
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  )
  const client = new KeyManagementServiceClient({
    apiEndpoint: '127.0.0.1',
    port,
    sslCreds: grpc.credentials.createInsecure(),
    authClient: authClient(),
    projectId: 'example',
  })
  return {
    client,
    problems,
    control,
    async close() {
      await client.close()
      server.forceShutdown()
    },
  }
}
