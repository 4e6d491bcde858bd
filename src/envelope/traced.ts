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

export const TRACED_OF_POOL = {
  secret: [
    'encrypt',
    'encryptBytes',
    'decrypt',
    'decryptBytes',
    'handle',
    'fingerprint',
    'fingerprints',
    'rotate',
    'shred',
  ],
  items: ['encryptMany', 'decryptMany'],
} as const
