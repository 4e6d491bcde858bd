/** AWS KMS as far as Encrypt and Decrypt go: docs.aws.amazon.com/kms/latest/APIReference. */
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { type Answer, type Fault, type KeyServer, seal, startKeyServer, unseal } from './kms-server.js'

export const AWS_KEY = 'arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab'
export const AWS_OTHER_KEY = 'arn:aws:kms:eu-central-1:111122223333:key/ffffabcd-12ab-34cd-56ef-1234567890ab'
/** One multi-region key in two regions. */
export const AWS_REPLICAS = ['eu-central-1', 'us-west-2'].map(
  (region) => `arn:aws:kms:${region}:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab`,
)

export function startAwsKms(): Promise<KeyServer> {
  const material = new Map<string, Buffer>()
  const keyOf = (arn: string) => {
    const name = arn.split('/')[1] ?? ''
    const key = material.get(name) ?? randomBytes(32)
    material.set(name, key)
    // Key and the 16 bytes by which a ciphertext names it.
    return { key, tag: createHash('sha256').update(name).digest().subarray(0, 16) }
  }
  return startKeyServer((request, fault, problems) => {
    const operation = String(request.headers['x-amz-target']).replace('TrentService.', '')
    const input = JSON.parse(request.body)
    const context = input.EncryptionContext
    const says = (condition: boolean, problem: string) => {
      if (!condition) problems.push(`${operation}: ${problem}`)
    }
    says(request.method === 'POST' && request.path === '/', 'not POST /')
    says(String(request.headers.authorization).startsWith('AWS4-HMAC-SHA256 Credential='), 'not signed')
    says(/^arn:aws:kms:[a-z0-9-]+:111122223333:key\/[a-z0-9-]+$/.test(input.KeyId), 'KeyId is no ARN')
    says(
      Object.keys(context ?? {}).join() === 'drizzle-keystore' &&
        /^[\w-]{43}$/.test(context['drizzle-keystore']),
      'the context is not exactly the hash',
    )
    const refused = refusal(fault)
    if (refused !== null) return refused
    const { key, tag } = keyOf(fault === 'otherKey' ? AWS_OTHER_KEY : input.KeyId)
    const KeyId = fault === 'otherKey' ? AWS_OTHER_KEY : input.KeyId
    const aad = Buffer.from(JSON.stringify(context))
    const EncryptionAlgorithm = 'SYMMETRIC_DEFAULT'
    if (operation === 'Encrypt') {
      const blob = Buffer.concat([tag, seal(key, Buffer.from(input.Plaintext, 'base64'), aad)])
      return answer({ CiphertextBlob: blob.toString('base64'), KeyId, EncryptionAlgorithm })
    }
    says(operation === 'Decrypt', 'unknown operation')
    const blob = Buffer.from(input.CiphertextBlob, 'base64')
    if (fault === 'otherKey')
      return answer({ Plaintext: randomBytes(32).toString('base64'), KeyId, EncryptionAlgorithm })
    if (!blob.subarray(0, 16).equals(tag)) {
      const isOther =
        blob.subarray(0, 16).equals(keyOf(AWS_OTHER_KEY).tag) ||
        blob.subarray(0, 16).equals(keyOf(AWS_KEY).tag)
      return error(400, isOther ? 'IncorrectKeyException' : 'InvalidCiphertextException')
    }
    const plaintext = unseal(key, blob.subarray(16), aad)
    if (plaintext === null) return error(400, 'InvalidCiphertextException')
    return answer({ Plaintext: plaintext.toString('base64'), KeyId, EncryptionAlgorithm })
  })
}

function refusal(fault: Fault | null): Answer | null {
  if (fault === 'deny') return error(400, 'AccessDeniedException')
  if (fault === 'throttle') return error(400, 'ThrottlingException')
  if (fault === 'notFound') return error(400, 'NotFoundException')
  if (fault === 'outage') return error(500, 'KMSInternalException')
  return null
}

function answer(body: object): Answer {
  return {
    status: 200,
    body,
    headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amzn-requestid': randomUUID() },
  }
}

/** Its message has what a careless log would show. */
export function error(status: number, name: string): Answer {
  const body = {
    __type: name,
    message: 'User: arn:aws:sts::111122223333:assumed-role/secret-role is not authorized',
  }
  return { ...answer(body), status }
}
