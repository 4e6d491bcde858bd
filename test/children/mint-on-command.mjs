// Encrypts on command, through outages of its database. Prints "ready", then for each line "mint USER" on stdin the outcome as JSON.
//
//   node mint-on-command.mjs URL DEADLINE_MS
import { createInterface } from 'node:readline'
import { postgresKeyStore } from '../../dist/adapters/postgres/store.js'
import { EnvelopeCrypto, masterKeysFromEnv } from '../../dist/index.js'

const [url, deadlineMs] = process.argv.slice(2)
const store = postgresKeyStore({ url }, { deadlineMs: Number(deadlineMs) })
const envelope = await EnvelopeCrypto.open({ store, masterKeys: masterKeysFromEnv(), cache: false })
console.log('ready')

for await (const line of createInterface({ input: process.stdin })) {
  const started = performance.now()
  const answer = await envelope
    .encrypt(line.replace('mint ', ''), 'a secret')
    .then(() => ({ ok: true }))
    .catch(({ code, retryable, message }) => ({ ok: false, code, retryable, message }))
  console.log(JSON.stringify({ ...answer, ms: performance.now() - started }))
}
await envelope.close()
