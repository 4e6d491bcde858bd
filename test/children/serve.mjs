// Runs a service on a key store. Prints "ready", then answers each line of stdin, a command as JSON, by a line of JSON.
//
//   node serve.mjs URL STORE_OPTIONS SERVICE_OPTIONS        both options as JSON
//
//   { "do": "encrypt" | "decrypt" | "hold" | "useHandle" | "rotate" | "shred" | "forget", "userId": …, "token"?: … } | { "do": "events" }
import { createInterface } from 'node:readline'
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, masterKeysFromEnv } from '../../dist/index.js'

const [url, storeOptions, serviceOptions] = process.argv.slice(2)
const events = []
const envelope = await EnvelopeCrypto.open({
  ...JSON.parse(serviceOptions),
  store: await openKeyStore(url, JSON.parse(storeOptions)),
  masterKeys: masterKeysFromEnv(),
  onEvent: (event) => events.push(event),
})
const handles = new Map()

const work = {
  encrypt: ({ userId }) => envelope.encrypt(userId, `secret of ${userId}`),
  decrypt: ({ userId, token }) => envelope.decrypt(userId, token),
  async hold({ userId }) {
    handles.set(userId, await envelope.user(userId))
    return null
  },
  useHandle: ({ userId }) => handles.get(userId).encrypt(`secret of ${userId}`),
  rotate: ({ userId }) => envelope.rotateUserKey(userId),
  shred: ({ userId }) => envelope.shredUser(userId),
  forget: ({ userId }) => envelope.shredUser(userId, { forget: true }),
  events: () => events,
}

console.log('ready')
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  let answer
  try {
    answer = { ok: true, value: await work[command.do](command) }
  } catch ({ code }) {
    answer = { ok: false, code }
  }
  console.log(JSON.stringify(answer))
}
await envelope.close()
