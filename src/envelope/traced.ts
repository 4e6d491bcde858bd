/** Which methods of the service are published as calls: those that return a promise. */

export const TRACED = {
  userId: [
    'encrypt',
    'encryptBytes',
    'decrypt',
    'decryptBytes',
    'user',
    'fingerprint',
    'getOrCreateUserKey',
    'rotateUserKey',
    'shredUser',
  ],
  items: ['encryptMany', 'decryptMany'],
  tenantId: ['rotateTenantKey', 'shredTenant', 'moveTenant', 'evictTenant'],
} as const

/** Their first argument is the secret. */
export const TRACED_OF_POOL = { secret: ['encrypt', 'decrypt', 'handle', 'fingerprint'] } as const
