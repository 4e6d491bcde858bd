// A service of an application in one step of docs/REENCRYPT.md's path: reads and writes rows of `credentials` until its stdin ends. Prints
// "ready" once it has begun, and in the end JSON: how many it has read and written, and what went wrong.
//
//   node rollout-service.mjs FOLDER DIALECT APP_URL STEP     FOLDER has schema.mjs, encrypted.mjs and open.mjs; the store is in the environment
//
// STEP: plain (before), read (reads both, writes plaintext), write (reads both, writes tokens), strict (reads and writes tokens only)
import { randomInt } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { eq } from 'drizzle-orm'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, masterKeysFromFile } from '../../dist/index.js'

const [folder, dialect, url, step] = process.argv.slice(2)
const load = (name) => import(pathToFileURL(join(folder, name)).href)
const { credentials: plain } = await load('plain.mjs')
const { credentials: encrypted } = await load('encrypted.mjs')
const { db, close } = await openDatabase()
const envelope = await EnvelopeCrypto.open({
  store: await openKeyStore(process.env.KEYSTORE_URL, { deadlineMs: 120_000 }),
  masterKeys: masterKeysFromFile(process.env.API_KEY_MASTER_KEY_FILE),
  plaintext: step === 'strict' ? 'reject' : 'pass-through',
})
const toRead = step === 'plain' ? plain : encrypted
const toWrite = step === 'plain' || step === 'read' ? plain : encrypted
const counts = { read: 0, written: 0 }
const failures = []
let stopped = false
process.stdin.resume().once('end', () => {
  stopped = true
})

for (let round = 0; !stopped; round += 1) {
  const id = String(randomInt(40))
  const userId = `user-${Number(id) % 5}`
  try {
    await envelope.scope(userId, async () => {
      const [row] = await db.select().from(toRead).where(eq(toRead.id, id))
      counts.read += 1
      if (row !== undefined && !row.apiKey.startsWith(`sk-${id}-`))
        throw new Error(`row ${id} is not read as it was written`)
      const apiKey = `sk-${id}-${randomInt(1e9)}`
      const written = await db
        .insert(toWrite)
        .values({ id, userId, apiKey })
        .onConflictDoUpdate({ target: toWrite.id, set: { apiKey } })
      counts.written += written === undefined ? 0 : 1
    })
  } catch (error) {
    failures.push(`${step}: ${error.message} ${error.cause?.message ?? ''}`)
  }
  if (round === 0) console.log('ready')
  await sleep(5)
}
await envelope.close()
await close()
console.log(JSON.stringify({ ...counts, failures }))

async function openDatabase() {
  if (dialect === 'sqlite') {
    const { drizzle } = await import('drizzle-orm/better-sqlite3')
    const { default: Database } = await import('better-sqlite3')
    const client = new Database(url, { timeout: 60_000 })
    return { db: drizzle({ client }), close: () => client.close() }
  }
  const { drizzle } = await import('drizzle-orm/node-postgres')
  const { default: pg } = await import('pg')
  const client = new pg.Pool({ connectionString: url, max: 2 })
  return { db: drizzle({ client }), close: () => client.end() }
}
