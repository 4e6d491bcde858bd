/** Code of docs/MASTER-KEYS.md: TypeScript is compiled against the published types, what a shell sets is taken by the library, a policy is JSON. */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { generateMasterKey, masterKeysFromEnv } from '../../src/index.js'
import { codeBlocks } from '../support/documents.js'
import { hostProject } from '../support/host-project.js'

const guide = readFileSync('docs/MASTER-KEYS.md', 'utf8')
const SDKS = ['@aws-sdk', '@azure', '@google-cloud', '@smithy', 'google-gax', 'google-auth-library']

/** The service that the guide's own test starts: AES-256-GCM in the process. */
const SEALER = `
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto'
import type { Sealer } from './sealer-master-key.js'

export async function startSealer() {
  const server = { password: 'the-password-of-the-sealer', isDown: false }
  const keys = new Map<string, Buffer>()
  const client = (name: string): Sealer => {
    const key = () => {
      if (server.isDown) throw new Error(server.password)
      const found = keys.get(name) ?? randomBytes(32)
      keys.set(name, found)
      return found
    }
    return {
      async seal(bytes, associatedData) {
        const iv = randomBytes(12)
        const cipher = createCipheriv('aes-256-gcm', key(), iv).setAAD(associatedData)
        return Buffer.concat([iv, cipher.update(bytes), cipher.final(), cipher.getAuthTag()])
      },
      async open(sealed, associatedData) {
        const current = key()
        if (sealed.length < 28) return null
        const decipher = createDecipheriv('aes-256-gcm', current, sealed.subarray(0, 12)).setAAD(associatedData)
        decipher.setAuthTag(sealed.subarray(-16))
        const opened = decipher.update(sealed.subarray(12, -16))
        try {
          decipher.final()
          return opened
        } catch {
          return null
        }
      },
    }
  }
  return { server, client }
}
`

/** Compiles blocks, each as a module of its own. */
function compile(blocks: readonly string[]): void {
  const files = blocks.map((block, index) => [`block-${index}.ts`, `${block}\nexport {}\n`] as const)
  hostProject(Object.fromEntries(files), { drivers: ['better-sqlite3', 'pg', ...SDKS] }).remove()
}

/** The master keys that a shell block sets. */
function settingsOf(block: string): Record<string, string> {
  const print = 'env | grep -E "^(API_KEY_MASTER_KEY|VAULT_|PKCS11_)"'
  const sets = block.split('\n').filter((line) => line.startsWith('export ') && !line.includes('$('))
  const { stdout } = spawnSync('bash', ['-c', `${sets.join('\n')}\n${print}`], {
    env: { PATH: process.env.PATH },
    encoding: 'utf8',
  })
  return Object.fromEntries(
    stdout
      .split('\n')
      .filter(Boolean)
      .map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
  )
}

describe('docs/MASTER-KEYS.md', () => {
  it('has TypeScript that compiles', () => {
    const blocks = codeBlocks(guide, 'ts')
    expect(blocks.length).toBeGreaterThanOrEqual(6)
    compile(blocks)
  })

  it('has TypeScript of tenants that compiles', () => {
    const blocks = codeBlocks(guide, 'ts tenants')
    expect(blocks).toHaveLength(4)
    compile(blocks)
  })

  it('names keys that the library takes, each under the id that the text has', () => {
    const settings = codeBlocks(guide, 'sh')
      .map(settingsOf)
      .filter(({ API_KEY_MASTER_KEY }) => API_KEY_MASTER_KEY !== undefined)
    const ids = settings.flatMap((env) => masterKeysFromEnv(env).all.map(({ id }) => id))
    expect(new Set(ids.map((id) => id.split(':')[0]))).toEqual(
      new Set(['aws-kms', 'azure-kv', 'gcp-kms', 'vault', 'pkcs11']),
    )
    expect(
      settings.flatMap(({ API_KEY_MASTER_KEY, API_KEY_MASTER_KEY_PREVIOUS = [] }) =>
        // Where a token's PIN is, is no part of its id.
        [API_KEY_MASTER_KEY, API_KEY_MASTER_KEY_PREVIOUS].flat().map((text) => text?.replace(/\?.*/, '')),
      ),
    ).toEqual(ids)
  })

  it('names every variable that the library reads', () => {
    const sources = ['environment', 'service-keys'].map((name) =>
      readFileSync(`src/master-keys/${name}.ts`, 'utf8'),
    )
    const variables = [...sources.join('').matchAll(/variable\(env, '([A-Z0-9_]+)'\)/g)].map(
      ([, name]) => name,
    )
    expect(new Set(variables).size).toBeGreaterThanOrEqual(10)
    for (const name of variables) expect(guide).toContain(`\`${name}`)
    for (const part of ['?module-path=', '?pin-source=']) expect(guide).toContain(part)
  })

  it('has a key service of its own that passes the suite, under the runner that it names', () => {
    const [key = '', test = ''] = codeBlocks(guide, 'ts own')
    const files = {
      'sealer-master-key.ts': key,
      'sealer-master-key.test.ts': test,
      'sealer-of-the-tests.ts': SEALER,
    }
    const project = hostProject(files, { drivers: ['better-sqlite3', 'pg'] })
    try {
      const { status, stdout } = spawnSync(process.execPath, ['--test', 'sealer-master-key.test.js'], {
        cwd: project.path,
        encoding: 'utf8',
      })
      expect({ status, stdout: status === 0 ? '' : stdout }).toEqual({ status: 0, stdout: '' })
      expect(stdout).toContain('MasterKey contract: my sealer')
      expect(stdout).toMatch(/(pass|#) (pass )?16/)
    } finally {
      project.remove()
    }
  })

  it('gives a tenant the same root each time', async () => {
    const [recipe = ''] = codeBlocks(guide, 'ts tenants')
    const project = hostProject({ 'recipe.ts': recipe }, { drivers: ['better-sqlite3', 'pg', ...SDKS] })
    try {
      const code = `
        const { withTenants: masterKeys } = await import('./recipe.js')
        const [first, again] = [masterKeys.tenantRoot('acme'), masterKeys.tenantRoot('acme')]
        console.log(first.id, first === again, masterKeys.tenantRoot('globex'), masterKeys.tenantOf('alice'), masterKeys.tenantOf('mallory/acme'))`
      const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', code], {
        cwd: project.path,
        env: { PATH: process.env.PATH, API_KEY_MASTER_KEY: generateMasterKey() },
        encoding: 'utf8',
      })
      expect(stderr).toBe('')
      expect(stdout.trim()).toBe(
        'aws-kms:arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab true null acme null',
      )
    } finally {
      project.remove()
    }
  })

  it('has a policy that is JSON and names exactly what the provider calls', () => {
    const [policy = ''] = codeBlocks(guide, 'json')
    const [statement] = JSON.parse(policy).Statement
    expect(statement.Action).toEqual(['kms:Encrypt', 'kms:Decrypt'])
    expect(JSON.stringify(statement.Condition)).toContain('drizzle-keystore')
  })

  it('has no block of code that no test looks at', () => {
    const languages = [...guide.matchAll(/^ *```(.+)$/gm)].map(([, language]) => language)
    expect(new Set(languages)).toEqual(
      new Set(['ts', 'ts tenants', 'ts own', 'sh', 'sh norun', 'json', 'hcl']),
    )
  })
})
