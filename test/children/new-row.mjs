// For the other scripts of this folder: a live row of random bytes, which no master key opens.
import { randomBytes } from 'node:crypto'

export const newRow = (userId, version = 1) => ({
  userId,
  version,
  encryptedKey: randomBytes(60),
  kekId: null,
  createdAt: new Date(),
  wrappedAt: null,
  shreddedAt: null,
})
