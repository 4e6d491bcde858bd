// Another process that writes to a key store: each line on stdin is "mint USER", "rotate USER", "shred USER", "forget USER" or
// "prune USER"; prints the line again when it is done.
//
//   node change-rows.mjs URL
import { randomBytes } from 'node:crypto'
import { createInterface } from 'node:readline'
import { openKeyStore } from '../../dist/adapters/open.js'

const store = await openKeyStore(process.argv[2])
const row = (userId, version) => ({
  userId,
  version,
  encryptedKey: randomBytes(60),
  kekId: null,
  createdAt: new Date(),
  wrappedAt: null,
  shreddedAt: null,
})
const work = {
  mint: (userId) => store.insertIfAbsent([row(userId, 1)]),
  rotate: (userId) => store.insertIfAbsent([row(userId, 2)]),
  shred: (userId) => store.shred(userId, { forget: false }),
  forget: (userId) => store.shred(userId, { forget: true }),
  prune: (userId) => store.remove([{ userId, version: 1 }]),
}
console.log('ready')
for await (const line of createInterface({ input: process.stdin })) {
  const [action, userId] = line.split(' ')
  await work[action](userId)
  console.log(line)
}
await store.close()
