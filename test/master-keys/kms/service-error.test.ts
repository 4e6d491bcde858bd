/** What is shown of a service's failure: its code and its request id, if they look like such. */
import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { serviceError } from '../../../src/master-keys/kms/service-error.js'

const UUID = '0f8fad5b-d9cb-469f-a165-70867728950e'

describe('the error of a key service', () => {
  it('shows code and request id', () => {
    const error = serviceError('aws-kms:k', 'AWS KMS', {
      reason: 'denied',
      providerCode: 'AccessDeniedException',
      requestId: UUID,
    })
    expect(error).toMatchObject({ providerCode: 'AccessDeniedException', requestId: UUID, retryable: false })
    expect(error.message).toContain(`AWS KMS (AccessDeniedException, request id ${UUID})`)
    expect(error.message.split(UUID)).toHaveLength(2)
  })

  it.each([
    ['a key', randomBytes(32).toString('base64')],
    ['a key in hexadecimal', randomBytes(32).toString('hex')],
    ['a token', 'hvs.CAESIJ2Q'],
    ['a name that says nothing', 'Error'],
    ['a sentence', 'User arn:aws:sts::1:role/x is not authorized'],
    ['several lines', 'Denied\nx'],
    ['an escape', 'Denied\u001b[2J'],
  ])('shows nothing that is no code and no id: %s', (_, text) => {
    const error = serviceError('aws-kms:k', 'AWS KMS', {
      reason: 'unavailable',
      providerCode: text,
      requestId: text,
    })
    expect(error).toMatchObject({ providerCode: undefined, requestId: undefined, retryable: true })
    expect(error.message).not.toContain(`(${text}`)
  })
})
