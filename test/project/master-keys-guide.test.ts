/** Code of docs/MASTER-KEYS.md: TypeScript is compiled against the published types, what a shell sets is taken by the library, a policy is JSON. */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { EnvelopeCrypto, masterKeysFromEnv } from '../../src/index.js'
import { itIf } from '../support/conditional.js'
import { codeBlocks } from '../support/documents.js'
import { hostProject } from '../support/host-project.js'

const guide = readFileSync('docs/MASTER-KEYS.md', 'utf8')
const SDKS = ['@aws-sdk', '@azure', '@google-cloud', '@smithy', 'google-gax', 'google-auth-library']

/** Compiles blocks, each as a module of its own. */
function compile(blocks: readonly string[]): void {
  const files = blocks.map((block, index) => [`block-${index}.ts`, `${block}\nexport {}\n`] as const)
  hostProject(Object.fromEntries(files), { drivers: ['better-sqlite3', 'pg', ...SDKS] }).remove()
}

/** The master keys that a shell block sets. */
function settingsOf(block: string): Record<string, string> {
  const print = 'env | grep -E "^(API_KEY_MASTER_KEY|VAULT_)"'
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

  const hasTenants = 'moveTenant' in EnvelopeCrypto.prototype
  itIf(hasTenants, 'there are no tenants yet')('has TypeScript of tenants that compiles', () => {
    const blocks = codeBlocks(guide, 'ts tenants')
    expect(blocks).toHaveLength(3)
    compile(blocks)
  })

  it('names keys that the library takes, each under the id that the text has', () => {
    const settings = codeBlocks(guide, 'sh')
      .map(settingsOf)
      .filter(({ API_KEY_MASTER_KEY }) => API_KEY_MASTER_KEY !== undefined)
    const ids = settings.flatMap((env) => masterKeysFromEnv(env).all.map(({ id }) => id))
    expect(new Set(ids.map((id) => id.split(':')[0]))).toEqual(
      new Set(['aws-kms', 'azure-kv', 'gcp-kms', 'vault']),
    )
    expect(
      settings.flatMap(({ API_KEY_MASTER_KEY, API_KEY_MASTER_KEY_PREVIOUS = [] }) =>
        [API_KEY_MASTER_KEY, API_KEY_MASTER_KEY_PREVIOUS].flat(),
      ),
    ).toEqual(ids)
  })

  it('has a policy that is JSON and names exactly what the provider calls', () => {
    const [policy = ''] = codeBlocks(guide, 'json')
    const [statement] = JSON.parse(policy).Statement
    expect(statement.Action).toEqual(['kms:Encrypt', 'kms:Decrypt'])
    expect(JSON.stringify(statement.Condition)).toContain('drizzle-keystore')
  })

  it('has no block of code that no test looks at', () => {
    const languages = [...guide.matchAll(/^ *```(.+)$/gm)].map(([, language]) => language)
    expect(new Set(languages)).toEqual(new Set(['ts', 'ts tenants', 'sh', 'sh norun', 'json', 'hcl']))
  })
})
