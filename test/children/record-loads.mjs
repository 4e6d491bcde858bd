// node --import record-loads.mjs …: appends the URL of every ES module, and of what one imports, to the file $LOADS.
import { appendFileSync } from 'node:fs'
import { register } from 'node:module'
import { isMainThread } from 'node:worker_threads'

// Hooks run in a thread of their own, which loads this file too.
if (isMainThread) register(import.meta.url)

export function load(url, context, next) {
  appendFileSync(process.env.LOADS, `${url}\n`)
  return next(url, context)
}
