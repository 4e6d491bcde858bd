/** PKCS #11 URIs (RFC 7512) as the environment takes them. */
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parsePkcs11Uri, percentEncoded } from '../../../src/master-keys/kms/pkcs11-uri.js'

describe('parsePkcs11Uri', () => {
  it.each<[string, object]>([
    ['pkcs11:token=acme;object=kek', { token: 'acme', object: 'kek' }],
    ['PKCS11:object=kek;token=acme', { token: 'acme', object: 'kek' }],
    ['pkcs11:serial=0042;id=%01%ff%41b', { serial: '0042', id: Uint8Array.of(1, 0xff, 0x41, 0x62) }],
    [
      'pkcs11:token=The%20Token%3B;object=%C3%A9%F0%9F%94%91;type=secret-key',
      { token: 'The Token;', object: 'é🔑' },
    ],
    ['pkcs11:token=a+b;object=k', { token: 'a+b', object: 'k' }],
    [
      'pkcs11:token=t;object=k?module-path=/usr/lib/a%20b.so&pin-source=file:///run/pin',
      { token: 't', object: 'k', module: '/usr/lib/a b.so', pinFile: '/run/pin' },
    ],
    ['pkcs11:token=t;object=k?pin-source=/run/pin', { token: 't', object: 'k', pinFile: '/run/pin' }],
    ['pkcs11:token=t;object=k?pin-source=file:/run/pin', { token: 't', object: 'k', pinFile: '/run/pin' }],
  ])('reads %s', (uri, expected) => {
    expect(parsePkcs11Uri(uri)).toEqual(expected)
  })

  it.each<[string, string]>([
    ['pkcs12:token=t;object=k', 'begins with pkcs11:'],
    ['pkcs11:', 'name a token'],
    ['pkcs11:token=t', 'name a key'],
    ['pkcs11:object=k', 'name a token'],
    ['pkcs11:token=t;object=k;token=u', 'token twice'],
    ['pkcs11:token=;object=k', 'name=value'],
    ['pkcs11:token=t;object=k;', 'name=value'],
    ['pkcs11:token=t;object=a%2', 'name=value'],
    ['pkcs11:token=t t;object=k', 'name=value'],
    ['pkcs11:token=é;object=k', 'name=value'],
    ['pkcs11:token=%ff;object=k', 'percent-encoded UTF-8'],
    ['pkcs11:token=t;object=k;type=private', 'secret-key'],
    ['pkcs11:token=t;object=k;slot-id=3', 'take out everything else'],
    ['pkcs11:token=t;object=k?x-vendor=1', 'take out everything else'],
    ['pkcs11:token=t;object=k?module-name=softhsm2', 'module-path'],
    ['pkcs11:token=t;object=k?pin-value=13579', 'PKCS11_PIN_FILE'],
    ['pkcs11:token=t;object=k?pin-source=%7Ccat%20/x', 'not a command'],
    ['pkcs11:token=t;object=k?pin-source=file://host/x', 'pin-source'],
    ['pkcs11:token=t;object=k?pin-source=13579', 'never the PIN itself'],
    ['pkcs11:token=t;object=k?pin-source=https://13579/p', 'never the PIN itself'],
    ['pkcs11:token=t;object=k?pin-source=/run%00/13579', 'never the PIN itself'],
    ['pkcs11:token=t?object=k?module-path=/x', 'one question mark'],
  ])('refuses %s, and shows no value of it', (uri, message) => {
    let error: unknown
    try {
      parsePkcs11Uri(uri)
    } catch (thrown) {
      error = thrown
    }
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARGUMENT', message: expect.stringContaining(message) })
    expect(String(error)).not.toContain('13579')
  })

  it('reads back whatever label was percent-encoded', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme', minLength: 1 }),
        fc.uint8Array({ minLength: 1 }),
        (label, id) => {
          const uri = `pkcs11:token=${percentEncoded(label)};object=${percentEncoded(label)};id=${percentEncoded(id)}`
          expect(parsePkcs11Uri(uri)).toEqual({ token: label, object: label, id })
        },
      ),
    )
  })
})
