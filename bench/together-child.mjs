// One of the processes that the part "together" starts: rewraps a store, or sweeps its table of tokens, once it is told to.
//
//   node together-child.mjs, which gets { work: 'rewrap' | 'sweep', url, options, keys } by message and answers 'ready'. At the next message it
//   begins, and answers { changed, skipped, wallMs, cpuMs }.
import { once } from 'node:events'
import { openKeyStore } from '../dist/adapters/open.js'
import { EnvelopeCrypto, masterKeysFromEnv, rewrapAll } from '../dist/index.js'
import { reencrypt, sqlSource } from '../dist/reencrypt/index.js'

const [{ work, url, options, keys, columns, context }] = await once(process, 'message')
const masterKeys = masterKeysFromEnv(keys)
const store = await openKeyStore(url, { ...options, deadlineMs: 120_000 })
const begin = work === 'rewrap' ? await rewrapping() : await sweeping()
process.send('ready')
await once(process, 'message')
const [start, cpu] = [performance.now(), process.cpuUsage()]
const report = await begin()
const wallMs = performance.now() - start
const { user, system } = process.cpuUsage(cpu)
process.send({ changed: report.changed, skipped: report.skipped, wallMs, cpuMs: (user + system) / 1000 })
await once(process, 'message')
process.exit()

async function rewrapping() {
  await store.list({ limit: 1 })
  return () => rewrapAll({ store, masterKeys })
}

async function sweeping() {
  const envelope = await EnvelopeCrypto.open({ store, masterKeys, accept: { keys: ['v2'], tokens: ['v2'] } })
  const source = await sqlSource(url, { ...columns, ...options })
  return () => reencrypt({ envelope, source, context })
}
