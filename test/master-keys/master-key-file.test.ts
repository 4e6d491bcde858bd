/** Master keys from a file, and what else may stand where its path should. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { generateMasterKey, masterKeysFromEnv, masterKeysFromFile } from '../../src/index.js'
import { shownKeyPath } from '../../src/master-keys/key-file.js'
import { isKeyLike } from '../../src/master-keys/local.js'
import { temporaryFolder } from '../support/databases.js'
import { bytesOf, expectNoTrace, idOf, idsOf, refusal } from '../support/key-texts.js'
import { slow } from '../support/slow.js'
import { warningsOf } from '../support/warnings.js'

const folder = temporaryFolder()
afterAll(() => folder.remove())

let files = 0
function fileWith(content: string | Uint8Array): string {
  files += 1
  const path = join(folder.path, `master-${files}.key`)
  writeFileSync(path, content, { mode: 0o600 })
  return path
}

describe('API_KEY_MASTER_KEY_FILE and masterKeysFromFile', () => {
  const key = generateMasterKey()

  it.each([
    ['the key', key],
    ['the key and a newline', `${key}\n`],
    ['a byte order mark, the key and CRLF', `\ufeff${key}\r\n`],
    ['standard base64', bytesOf(key).toString('base64')],
  ])('takes a file with %s', (_, content) => {
    const path = fileWith(content)
    expect(idsOf(masterKeysFromEnv({ API_KEY_MASTER_KEY_FILE: path }))).toEqual([idOf(key)])
    expect(idsOf(masterKeysFromFile(path))).toEqual([idOf(key)])
  })

  it('refuses both a key and a file, without showing the key', () => {
    const { message } = refusal(() =>
      masterKeysFromEnv({ API_KEY_MASTER_KEY: key, API_KEY_MASTER_KEY_FILE: fileWith(key) }),
    )
    expect(message).toContain('both set')
    expectNoTrace(message, key)
  })

  it('takes the file if the key is empty, and the key if the path is empty', () => {
    const path = fileWith(key)
    expect(idsOf(masterKeysFromEnv({ API_KEY_MASTER_KEY: '', API_KEY_MASTER_KEY_FILE: path }))).toEqual([
      idOf(key),
    ])
    expect(idsOf(masterKeysFromEnv({ API_KEY_MASTER_KEY: key, API_KEY_MASTER_KEY_FILE: '' }))).toEqual([
      idOf(key),
    ])
  })

  it('adds the previous keys of the environment to the key of the file', () => {
    const old = generateMasterKey()
    const env = { API_KEY_MASTER_KEY_FILE: fileWith(key), API_KEY_MASTER_KEY_PREVIOUS: old }
    expect(idsOf(masterKeysFromEnv(env))).toEqual([idOf(key), idOf(old)])
  })

  it('says where a relative path was looked for, and that a quoted ~ is none', () => {
    const { message } = refusal(() => masterKeysFromFile('data/none.key'))
    expect(message).toContain(`data/none.key, which is ${join(process.cwd(), 'data/none.key')} here,`)
    expect(message).toMatch(
      /counts from the folder .*\. If there is a master key already, name its file; only if/,
    )
    expect(refusal(() => masterKeysFromFile('~/data/none.key')).message).toContain('a shell replaces ~ only')
  })

  it('says which file is missing, why, and how to make one', () => {
    const path = join(folder.path, 'missing.key')
    for (const work of [
      () => masterKeysFromFile(path),
      () => masterKeysFromEnv({ API_KEY_MASTER_KEY_FILE: path }),
    ]) {
      const { message } = refusal(work)
      expect(message).toContain(path)
      expect(message).toContain('ENOENT')
      expect(message).toContain('keystore init')
    }
  })

  it('says so if the path is a folder', () => {
    const path = join(folder.path, 'a-folder')
    mkdirSync(path, { recursive: true })
    expect(refusal(() => masterKeysFromFile(path)).message).toContain(
      '(EISDIR): it is a folder, so name the file in it',
    )
  })

  it.each([
    ['empty', ''],
    ['of raw bytes', bytesOf(key)],
    ['with two keys', `${key}\n${generateMasterKey()}\n`],
    ['with a variable assignment', `API_KEY_MASTER_KEY=${key}\n`],
    ['of equal bytes', Buffer.alloc(32, 7).toString('base64')],
  ])('refuses a file %s, naming the file and never showing its content', (_, content) => {
    const path = fileWith(content)
    const { message } = refusal(() => masterKeysFromFile(path))
    expect(message).toContain(path)
    expectNoTrace(message, key)
  })

  it('does not show a key that was given in place of the path', () => {
    const hex = bytesOf(key).toString('hex')
    for (const text of [hex, hex.toUpperCase(), `0x${hex}`, ` ${hex}\n`, hex.slice(0, 50)])
      for (const work of [
        () => masterKeysFromEnv({ API_KEY_MASTER_KEY_FILE: text }),
        () => masterKeysFromFile(text),
      ])
        expect(refusal(work).message.toLowerCase()).not.toContain(hex.slice(2, 12))
    expect(refusal(() => masterKeysFromFile(hex)).message).toContain('xxd -r -p')
    for (const text of [
      key,
      ` ${key}\n`,
      bytesOf(key).toString('base64').replace('=', ''),
      `"${key}"`,
      `'${key}'`,
      `base64:${key}`,
      key.slice(0, 40),
      key.slice(0, 30),
    ]) {
      expectNoTrace(refusal(() => masterKeysFromEnv({ API_KEY_MASTER_KEY_FILE: text })).message, key)
      expectNoTrace(refusal(() => masterKeysFromFile(text)).message, key)
    }
  })

  it('takes no name of a file for a key, and shows no file that has a key’s name', () => {
    let missed = 0
    for (let i = 0; i < (slow ? 20_000 : 500); i++) {
      const text = generateMasterKey()
      expect(isKeyLike(text)).toBe(true)
      if (!isKeyLike(text.slice(0, 28 + (i % 16)))) missed += 1
    }
    // What is cut off is told by how mixed it is.
    expect(missed).toBeLessThan(slow ? 100 : 5)
    for (const path of [
      'data/master.key',
      'keys/2027',
      '/run/secrets/keystore_master_key_of_production',
      '/Users/Alice/Projects/MyApplication/secrets/MasterKey',
      'keys/prod-2027-01-31/Master-Key-v2-of-App1',
      'C:\\Users\\Alice\\MasterKeyOfTheApplication1',
      '~/secrets/keystore-master-key-2027',
      '/var/lib/kubernetes/secrets/KeystoreMasterKey2',
    ]) {
      expect([isKeyLike(path), shownKeyPath(path)]).toEqual([false, path])
      expect(refusal(() => masterKeysFromFile(`${folder.path}/${path}`)).message).toContain('ENOENT')
    }
    const name = generateMasterKey()
    writeFileSync(join(folder.path, name), 'no key')
    const before = process.cwd()
    process.chdir(folder.path)
    try {
      expectNoTrace(refusal(() => masterKeysFromFile(name)).message, name)
    } finally {
      process.chdir(before)
    }
    const service = 'vault:https://bob:secret@vault.example/transit/keys/k'
    const { message } = refusal(() => masterKeysFromFile(service))
    expect(message).toContain('the name of a key in a key service: set API_KEY_MASTER_KEY')
    expect(message).not.toContain('secret@')
  })

  it('warns of a passphrase in a file, naming the file', async () => {
    const path = fileWith(Buffer.from('correct horse battery staple 012').toString('base64'))
    const warnings = await warningsOf(() => masterKeysFromFile(path))
    expect(warnings.length).toBe(1)
    expect(warnings[0]?.message).toContain(path)
  })
})
