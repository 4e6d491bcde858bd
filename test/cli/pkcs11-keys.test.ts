/** Commands with master keys in PKCS #11 tokens, named in the environment: PINs, and names that are wrong. */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { startKeystore } from '../support/command.js'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { describeIf } from '../support/conditional.js'
import { hasSoftHsm, SOFT_HSM_PIN, type SoftHsm, startSoftHsm } from '../support/soft-hsm.js'

const CUSTOMERS_PIN = 'pin-of-the-customers-token'

describeIf(hasSoftHsm, 'softhsm2 and pkcs11js are not installed')('master keys in tokens', () => {
  let hsm: SoftHsm
  let store: CommandStore
  let env: Record<string, string>
  beforeEach(async () => {
    hsm = startSoftHsm()
    hsm.addToken('ours')
    hsm.addKey('ours', 'kek')
    store = await commandStore('sqlite')
    env = {
      KEYSTORE_URL: 'made.db',
      SOFTHSM2_CONF: hsm.configuration,
      PKCS11_MODULE: hsm.module,
      API_KEY_MASTER_KEY: 'pkcs11:token=ours;object=kek',
    }
  })
  afterEach(async () => {
    hsm.remove()
    await store.remove()
  })

  async function keystore(args: readonly string[], more: Record<string, string>, input = '') {
    const { child, ended } = startKeystore(store.folder, args, { ...env, ...more }, 'pipe')
    child.stdin?.end(input)
    const ran = await ended
    for (const pin of [SOFT_HSM_PIN, CUSTOMERS_PIN]) expect(ran.stdout + ran.stderr).not.toContain(pin)
    return ran
  }

  it('init asks for a PIN by the names that the environment has, and gives no advice on permissions', async () => {
    const { status, stderr } = await keystore(['init'], {})
    expect(status).toBe(1)
    expect(stderr).toContain('set PKCS11_PIN_FILE, or name a file as ?pin-source= in the key’s URI')
    expect(stderr).not.toMatch(/Allow this process|may wrap and unwrap/)
  })

  it.each([
    ['token=Ours;object=kek', 'CKR_TOKEN_NOT_PRESENT'],
    ['token=ours;object=Kek', 'the token has no such AES key'],
  ])('init refuses a name that is mistyped, and makes no store: %s', async (name, said) => {
    const { status, stdout, stderr } = await keystore(['init'], {
      PKCS11_PIN: SOFT_HSM_PIN,
      API_KEY_MASTER_KEY: `pkcs11:${name}`,
    })
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' })
    expect(stderr).toMatch(new RegExp(said))
    expect(existsSync(join(store.folder, 'made.db'))).toBe(false)
  })

  it('a key with a file of its own is shown no other token’s PIN, and the variables are for the others', async () => {
    hsm.addToken('theirs', CUSTOMERS_PIN)
    hsm.addKey('theirs', 'kek')
    const pinFile = join(store.folder, 'theirs.pin')
    writeFileSync(pinFile, `${CUSTOMERS_PIN}\n`, { mode: 0o600 })
    const theirs = `pkcs11:token=theirs;object=kek?pin-source=${pinFile}`
    const ours = 'pkcs11:token=ours;object=kek'
    const pin = { PKCS11_PIN: SOFT_HSM_PIN }
    const former = await keystore(['init'], { ...pin, API_KEY_MASTER_KEY: theirs })
    expect({ status: former.status, stderr: former.stderr }).toEqual({ status: 0, stderr: '' })
    const encrypt = await keystore(
      ['encrypt', '--user', 'alice'],
      { ...pin, API_KEY_MASTER_KEY: theirs },
      'sk-1',
    )
    expect(encrypt.stderr).toBe('')
    const both = { ...pin, API_KEY_MASTER_KEY: ours, API_KEY_MASTER_KEY_PREVIOUS: theirs }
    expect(await keystore(['rewrap'], both)).toMatchObject({ status: 0 })
    const decrypt = await keystore(['decrypt', '--user', 'alice'], pin, encrypt.stdout.trim())
    expect(decrypt).toMatchObject({ status: 0, stdout: 'sk-1' })
  })
})
