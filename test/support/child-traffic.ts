/** Processes that encrypt and decrypt without a pause, and the check that every token they handed out opens in the end. */
import { createHash } from 'node:crypto'
import { expect } from 'vitest'
import { openKeyStore } from '../../src/adapters/open.js'
import { EnvelopeCrypto, type MasterKey, type MasterKeyring } from '../../src/index.js'
import { startChild } from './child-process.js'

export interface HandedOut {
  readonly userId: string
  readonly token: string
  /** The SHA-256 of the plaintext, in hex. */
  readonly sha256: string
}

export interface Traffic {
  /** Lets the process finish its work in hand and end. @returns every token that it handed out */
  stop(): Promise<HandedOut[]>
  kill(): void
}

export interface TrafficOptions {
  readonly url: string
  /** The number of users that exist: `userIds(users)`. */
  readonly users: number
  /** Whether the processes mint keys of new users, and rotate keys. */
  readonly mint: boolean
  /** The environment of each process, which has its master keys. */
  readonly processes: readonly NodeJS.ProcessEnv[]
}

/** Starts one process for each environment. @returns once all are at work */
export async function startTraffic({ url, users, mint, processes }: TrafficOptions): Promise<Traffic[]> {
  const children = processes.map((env, index) =>
    startChild('traffic.mjs', [url, String(users), String(index), mint ? 'mint' : 'no-mint'], env),
  )
  const all = children.map(async (child) => {
    const before: string[] = []
    for (let line = await child.line(); line !== 'ready'; line = await child.line()) before.push(line)
    // Its output is read from now on: a full pipe would stop it.
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

/** Stops several processes. @returns every token that they handed out */
export async function stopAll(traffic: readonly Traffic[]): Promise<HandedOut[]> {
  return (await Promise.all(traffic.map((one) => one.stop()))).flat()
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

/** How many tokens one call opens. */
const TOKENS_PER_CALL = 5000

/** Opens tokens with these master keys. @returns those that do not open to their plaintext, and why */
export async function unopened(
  url: string,
  masterKeys: MasterKeyring | MasterKey,
  tokens: readonly HandedOut[],
) {
  const failures: { readonly userId: string; readonly reason: string }[] = []
  const envelope = await open(url, masterKeys)
  try {
    for (let start = 0; start < tokens.length; start += TOKENS_PER_CALL) {
      const some = tokens.slice(start, start + TOKENS_PER_CALL)
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

/** The context that test/children/traffic.mjs uses. */
const CONTEXT = { column: 'api_key' }

async function open(url: string, masterKeys: MasterKeyring | MasterKey): Promise<EnvelopeCrypto> {
  return EnvelopeCrypto.open({ store: await openKeyStore(url, { deadlineMs: 120_000 }), masterKeys })
}

function hash(plaintext: string): string {
  return createHash('sha256').update(plaintext).digest('hex')
}
