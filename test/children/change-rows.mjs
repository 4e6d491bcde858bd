// Changes rows of a key store on command. Prints "ready", then each line of stdin again once it is done: "mint USER",
// "rotate USER", "shred USER", "forget USER" or "prune USER".
//
//   node change-rows.mjs URL
import { createInterface } from 'node:readline'
import { openKeyStore } from '../../dist/adapters/open.js'
import { newRow } from './new-row.mjs'

const store = await openKeyStore(process.argv[2])
const work = {
  mint: (userId) => store.insertIfAbsent([newRow(userId)]),
  rotate: (userId) => store.insertIfAbsent([newRow(userId, 2)]),
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
