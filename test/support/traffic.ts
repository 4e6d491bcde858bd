/** Processes that keep encrypting and decrypting, and whether every token that they handed out opens in the end. */
import { createHash } from 'node:crypto'
import { expect } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { EnvelopeCrypto, type MasterKey, type MasterKeyring } from '../../src/index.js'
import { startChild } from './line-child.js'

export interface HandedOut {
  readonly userId: string
  readonly token: string
  /** Of the plaintext. */
  readonly sha256: string
}

export interface Traffic {
  /** Lets it finish what it has in hand. @returns every token that it handed out */
  stop(): Promise<HandedOut[]>
  kill(): void
}

export interface TrafficOptions {
  readonly url: string
  /** How many users there are: {@link userIds}. */
  readonly users: number
  /** Whether it makes new users, and rotates keys. */
  readonly mint: boolean
  /** The environment of each process: its master keys. */
  readonly processes: readonly NodeJS.ProcessEnv[]
}

/** Starts one process for each environment. @returns them when all are at work */
export async function startTraffic({ url, users, mint, processes }: TrafficOptions): Promise<Traffic[]> {
  const children = processes.map((env, index) =>
    startChild('traffic.mjs', [url, String(users), String(index), mint ? 'mint' : 'no-mint'], env),
  )
  const all = children.map(async (child) => {
    const before: string[] = []
    for (let line = await child.line(); line !== 'ready'; line = await child.line()) before.push(line)
    // Read from now on: what nobody reads would in the end stop it.
    const after = child.rest()
    return {
      async stop() {
        expect(await child.ended()).toEqual({ code: 0, stderr: '' })
        const tokens = [...before, ...(await after)].map((line) => JSON.parse(line) as HandedOut)
        expect(tokens.length).toBeGreaterThan(0)
        return tokens
      },
      kill: child.kill,
    }
  })
  try {
    return await Promise.all(all)
  } catch (error) {
    for (const child of children) child.kill()
    throw error
  }
}

/** @returns every token that they handed out */
export async function stopAll(traffic: readonly Traffic[]): Promise<HandedOut[]> {
  return (await Promise.all(traffic.map((one) => one.stop()))).flat()
}

/** The users that traffic calls existing ones. */
export function userIds(users: number): string[] {
  return Array.from({ length: users }, (_, index) => `user-${index}`)
}

/** Encrypts once for each user, in this process. */
export async function handOut(
  url: string,
  masterKeys: MasterKeyring | MasterKey,
  users: readonly string[],
): Promise<HandedOut[]> {
  const envelope = await open(url, masterKeys)
  try {
    const items = users.map((userId) => ({ userId, plaintext: `secret of ${userId}`, context: CONTEXT }))
    const results = await envelope.encryptMany(items)
    return items.map(({ userId, plaintext }, index) => {
      const result = results[index]
      if (result?.ok !== true) throw result?.error
      return { userId, token: result.value, sha256: hash(plaintext) }
    })
  } finally {
    await envelope.close()
  }
}

/** How many tokens are opened at a time. */
const TOKENS = 5000

/** Which tokens do not open with these master keys, and why. */
export async function unopened(
  url: string,
  masterKeys: MasterKeyring | MasterKey,
  tokens: readonly HandedOut[],
) {
  const failures: { readonly userId: string; readonly reason: string }[] = []
  const envelope = await open(url, masterKeys)
  try {
    for (let start = 0; start < tokens.length; start += TOKENS) {
      const some = tokens.slice(start, start + TOKENS)
      const results = await envelope.decryptMany(some.map((token) => ({ ...token, context: CONTEXT })))
      for (const [index, { userId, sha256 }] of some.entries()) {
        const result = results[index]
        if (result?.ok !== true) failures.push({ userId, reason: String(result?.error) })
        else if (hash(result.value) !== sha256) failures.push({ userId, reason: 'another plaintext' })
      }
    }
  } finally {
    await envelope.close()
  }
  return failures
}

/** That of test/children/traffic.mjs. */
const CONTEXT = { column: 'api_key' }

async function open(url: string, masterKeys: MasterKeyring | MasterKey): Promise<EnvelopeCrypto> {
  return EnvelopeCrypto.open({ store: await openKeyStore(url, { deadlineMs: 120_000 }), masterKeys })
}

function hash(plaintext: string): string {
  return createHash('sha256').update(plaintext).digest('hex')
}
