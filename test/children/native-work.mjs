// What the native core leaves behind, measured in a process of its own, whose memory nobody else uses. Prints JSON.
//
// native-work.mjs leaks CALLS   resident memory in MiB after a warm-up, and how much it has grown after so many calls more
// native-work.mjs keys COUNT    the same of keys that are made and dropped
// native-work.mjs wiped         how often a key and plaintexts are in the process's memory, while in use and after collection
// native-work.mjs threads COUNT what worker threads did at the same time
import { randomBytes, randomFillSync } from 'node:crypto'
import { openSync, readFileSync, readSync } from 'node:fs'
import { createRequire } from 'node:module'
import { setImmediate, setTimeout } from 'node:timers/promises'
import { isMainThread, Worker, workerData } from 'node:worker_threads'

const addon = createRequire(import.meta.url)('@drizzle-keystore/native')
const [what, count] = isMainThread ? process.argv.slice(2) : ['thread', workerData]
const core = addon.createCore(() => randomBytes(12 * 1024))
const aad = Buffer.from('of a user')

const measures = { leaks, keys, wiped, threads, thread }
const result = await measures[what](Number(count))
if (isMainThread) console.log(JSON.stringify(result))

async function collected() {
  for (let round = 0; round < 5; round += 1) {
    globalThis.gc()
    // Finalizers run in a turn of their own.
    await setImmediate()
    await setTimeout(5)
  }
}

async function grown(work, times) {
  await work(Math.max(2000, times / 10))
  await collected()
  const before = process.memoryUsage.rss()
  await work(times)
  await collected()
  const mib = (bytes) => Math.round((bytes / 2 ** 20) * 10) / 10
  return { calls: times, mib: mib(before), grownMib: mib(process.memoryUsage.rss() - before) }
}

/** Each round makes ten calls: of success, of refusal, and of an error. */
function leaks(calls) {
  const [v3, v2] = [new core.V3Key(randomBytes(32)), new core.V2Key(randomBytes(32))]
  const key = randomBytes(32)
  return grown(async (times) => {
    for (let call = 0; call < times; call += 10) {
      const token = v3.sealToken(1, 'Schlüssel 🔑', aad)
      v3.openTokenText(token, 0, aad)
      v3.openToken(token, 0, aad)
      v3.openTokenText(`${token.slice(0, -2)}AA`, 0, aad)
      v3.unwrap(v3.wrap(key, aad), aad)
      v2.openTokenText(v2.sealToken(key), 0)
      v3.sealToken(1, 'a\ud800', aad)
      try {
        v3.wrap('no bytes', aad)
      } catch {}
      if (call % 1000 === 0) await setImmediate()
    }
  }, calls)
}

function keys(number) {
  return grown(async (times) => {
    for (let made = 0; made < times; made += 1) {
      new core.V3Key(randomBytes(32)).sealToken(1, 'x', aad)
      new core.V2Key(randomBytes(32)).sealToken('x')
      if (made % 500 === 0) await setImmediate()
    }
  }, number)
}

async function wiped() {
  // Kept inverted, so that what is searched for is not itself in memory.
  const inverted = (bytes) => bytes.map((byte) => byte ^ 0xff)
  const secrets = []
  const secret = (length) => {
    const bytes = randomFillSync(Buffer.allocUnsafeSlow(length))
    secrets.push(inverted(bytes))
    return bytes
  }
  const use = () => {
    const [key, plaintext, wrapped] = [secret(32), secret(4000), secret(32)]
    const v3 = new core.V3Key(key)
    const token = v3.sealToken(1, plaintext, aad)
    const wrap = v3.wrap(wrapped, aad)
    const opened = [v3.openToken(token, 0, aad), v3.unwrap(wrap, aad)]
    const isSame = opened[0].equals(plaintext) && opened[1].equals(wrapped)
    for (const bytes of [key, plaintext, wrapped, ...opened]) bytes.fill(0)
    return { v3, isSame }
  }
  let used = use()
  const { isSame } = used
  const inUse = countsInMemory(secrets)
  used = null
  await collected()
  return { isSame, inUse, afterwards: countsInMemory(secrets) }
}

/** How often each secret, given inverted, is in the memory that this process can write. Only its first 16 bytes are looked for. */
function countsInMemory(secrets) {
  const counts = secrets.map(() => 0)
  const memory = openSync('/proc/self/mem', 'r')
  const chunk = Buffer.allocUnsafeSlow(2 ** 20)
  const starts = secrets.map((bytes) => bytes.subarray(0, 16))
  for (const line of readFileSync('/proc/self/maps', 'latin1').split('\n')) {
    const [range, access] = line.split(' ')
    if (!access?.startsWith('rw')) continue
    const [from, to] = range.split('-').map((hex) => Number.parseInt(hex, 16))
    for (let at = from; at < to; at += chunk.length - 16) {
      let length = 0
      try {
        length = readSync(memory, chunk, 0, Math.min(chunk.length, to - at), at)
      } catch {
        break
      }
      for (let index = 0; index < length; index += 1) chunk[index] ^= 0xff
      const own = chunk.subarray(0, length)
      for (const [index, start] of starts.entries())
        for (let found = own.indexOf(start); found !== -1; found = own.indexOf(start, found + 1))
          counts[index] += 1
      chunk.fill(0, 0, length)
    }
  }
  return counts
}

function thread(tokens) {
  const key = new core.V3Key(Buffer.alloc(32, 3))
  for (let made = 0; made < tokens; made += 1) {
    if (key.openTokenText(key.sealToken(1, `text ${made}`, aad), 0, aad) !== `text ${made}`)
      throw new Error('another text')
  }
}

async function threads(tokens) {
  const workers = Array.from(
    { length: 4 },
    () => new Worker(new URL(import.meta.url), { workerData: tokens }),
  )
  // One that ends in the middle of its work.
  const ended = new Worker(new URL(import.meta.url), { workerData: tokens * 1000 })
  const codes = await Promise.all(
    workers.map((worker) => new Promise((resolve) => worker.once('error', resolve).once('exit', resolve))),
  )
  await ended.terminate()
  thread(tokens)
  return { codes }
}
