/** Every command works with a master key in a key service, named in the environment. The service is a server of the test. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { startKeystore } from '../support/command.js'
import { type CommandStore, commandStore } from '../support/command-store.js'
import { dialects } from '../support/databases.js'
import { AWS_KEY, AWS_OTHER_KEY, startAwsKms } from '../support/kms-aws.js'
import { AWS_SECRET } from '../support/kms-providers.js'
import type { KeyServer } from '../support/kms-server.js'
import { startVault, VAULT_TOKEN } from '../support/kms-vault.js'

/** The services that a URL of loopback can stand for. The others take the same road: src/master-keys/service-keys.ts. */
const services = {
  vault: {
    start: startVault,
    env: ({ url }: KeyServer) => ({ API_KEY_MASTER_KEY: `vault:${url}/transit/keys/first`, VAULT_TOKEN }),
    other: ({ url }: KeyServer) => `vault:${url}/transit/keys/other`,
  },
  aws: {
    start: startAwsKms,
    env: ({ url }: KeyServer) => ({
      API_KEY_MASTER_KEY: `aws-kms:${AWS_KEY}`,
      AWS_ENDPOINT_URL_KMS: url,
      AWS_ACCESS_KEY_ID: 'AKIDTEST',
      AWS_SECRET_ACCESS_KEY: AWS_SECRET,
    }),
    other: () => `aws-kms:${AWS_OTHER_KEY}`,
  },
}

/** AWS's SDK takes a second for each command: once is enough. */
const cases = [
  ...dialects.map((dialect) => ['vault', dialect] as const),
  ...dialects.slice(0, 1).map((dialect) => ['aws', dialect] as const),
]

describe.each(cases)('with a master key in %s, on %s', (name, dialect) => {
  const service = services[name]
  let server: KeyServer
  let store: CommandStore
  let env: Record<string, string>
  beforeEach(async () => {
    server = await service.start()
    store = await commandStore(dialect)
    env = { KEYSTORE_URL: store.url, ...service.env(server) }
  })
  afterEach(async () => {
    await store.remove()
    await server.close()
    expect(server.problems).toEqual([])
  })

  /** Not runKeystore: the server answers in this process. */
  async function keystore(
    args: readonly string[],
    { input = '', more = {} }: { input?: string; more?: Record<string, string> } = {},
  ) {
    const { child, ended } = startKeystore(store.folder, args, { ...env, ...more }, 'pipe')
    child.stdin?.end(input)
    const ran = await ended
    for (const secret of [VAULT_TOKEN, AWS_SECRET]) expect(ran.stdout + ran.stderr).not.toContain(secret)
    return ran
  }
  async function ok(args: readonly string[], options?: Parameters<typeof keystore>[1]): Promise<string> {
    const { status, stdout, stderr } = await keystore(args, options)
    expect({ args, status, stderr: status === 0 ? '' : stderr }).toEqual({ args, status: 0, stderr: '' })
    return stdout
  }

  it('every command works', async () => {
    expect(await ok(['init'])).toContain('Master key: from the environment')
    await ok(['migrate'])
    expect(await ok(['quickstart'])).toContain('all ok')
    const token = (await ok(['encrypt', '--user', 'alice'], { input: 'sk-1' })).trim()
    expect(await ok(['decrypt', '--user', 'alice'], { input: token })).toBe('sk-1')
    await ok(['rotate-user', 'alice'])
    const newer = (await ok(['encrypt', '--user', 'alice'], { input: 'sk-2' })).trim()
    expect(await ok(['decrypt', '--user', 'alice'], { input: newer })).toBe('sk-2')
    const { API_KEY_MASTER_KEY = '' } = env
    expect(await ok(['status'])).toContain(API_KEY_MASTER_KEY.slice(0, 12))
    expect(await ok(['doctor'])).toContain('primary')
    await ok(['backup', 'backup.db'])
    await ok(['restore', 'backup.db', '--store', 'drill.db'])
    await ok(['doctor', '--store', 'drill.db'])
    await ok(['copy', '--to', 'copy.db'])
    expect(await ok(['decrypt', '--user', 'alice', '--store', 'copy.db'], { input: newer })).toBe('sk-2')
    await ok(['shred-user', 'alice', '--yes'])
    expect((await keystore(['decrypt', '--user', 'alice'], { input: newer })).stderr).toContain('shredded')
  })

  it('rewrap moves keys from a file into the service, to another key of it, and back', async () => {
    const { alice = '' } = await store.mint('alice', 'bob')
    const previous = ['--previous-key-file', 'keys/a.key']
    expect(await ok(['rewrap', ...previous])).toContain('primary')
    expect(await ok(['decrypt', '--user', 'alice'], { input: alice })).toBe('secret of alice')
    const { API_KEY_MASTER_KEY = '' } = env
    const rows = await store.rows()
    expect(rows.map(({ kekId }) => kekId)).toEqual([API_KEY_MASTER_KEY, API_KEY_MASTER_KEY])
    const other = service.other(server)
    await ok(['rewrap'], {
      more: { API_KEY_MASTER_KEY: other, API_KEY_MASTER_KEY_PREVIOUS: API_KEY_MASTER_KEY },
    })
    expect((await store.rows()).map(({ kekId }) => kekId)).toEqual([other, other])
    const more = { API_KEY_MASTER_KEY: '', API_KEY_MASTER_KEY_PREVIOUS: other }
    await ok(['rewrap', '--master-key-file', 'keys/b.key'], { more })
    expect(await store.decrypt('alice', alice, 'b')).toBe('secret of alice')
  })

  it('init refuses a service that gives no answer, and makes nothing', async () => {
    server.fault = 'outage'
    const { status, stdout, stderr } = await keystore(['init'])
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' })
    expect(stderr).toMatch(/an outage.* nothing was checked, and nothing was made/s)
    expect(stderr).toContain('Run the same command again when the master key answers.')
    expect((await keystore(['status'])).status).not.toBe(0)
    server.fault = null
    await ok(['init'])
  })

  it('a file may name the service', async () => {
    await ok(['init'])
    mkdirSync(join(store.folder, 'named'))
    const { API_KEY_MASTER_KEY = '' } = env
    writeFileSync(join(store.folder, 'named/key'), `${API_KEY_MASTER_KEY}\n`)
    const args = ['encrypt', '--user', 'alice', '--master-key-file', 'named/key']
    const { status, stderr } = await keystore(args, { input: 'x', more: { API_KEY_MASTER_KEY: '' } })
    expect({ status, stderr }).toEqual({ status: 0, stderr: expect.not.stringContaining('mode') })
  })

  it.each([
    ['deny', /it refuses/],
    // The core asks about once a second in an outage, and repeats why: "open" was told first.
    ['outage', /failed a moment ago.* The failure: .*(HTTP 503|KMSInternalException).*an outage/s],
  ] as const)('says why the service failed: %s', async (fault, said) => {
    await ok(['init'])
    server.fault = fault
    const { status, stderr } = await keystore(['encrypt', '--user', 'alice'], { input: 'x' })
    expect(status).toBe(1)
    expect(stderr).toMatch(said)
  })
})
