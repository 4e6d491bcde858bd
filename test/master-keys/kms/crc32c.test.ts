import { describe, expect, it } from 'vitest'
import { crc32c } from '../../../src/master-keys/kms/crc32c.js'

describe('CRC-32C', () => {
  // RFC 3720 §B.4, and the check value of the catalogue of CRCs (reveng.sourceforge.io, CRC-32/ISCSI).
  it.each([
    ['32 zeros', new Uint8Array(32), 0x8a9136aa],
    ['32 ones', new Uint8Array(32).fill(0xff), 0x62a8ab43],
    ['32 incrementing', Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
    ['32 decrementing', Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
    ['123456789', Buffer.from('123456789'), 0xe3069283],
    ['nothing', new Uint8Array(0), 0],
  ])('of %s', (_, bytes, crc) => {
    expect(crc32c(bytes)).toBe(crc)
  })
})
