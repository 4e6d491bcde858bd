// Appends the URL of every module that an ES module imports to the file $LOADS.
//
//   LOADS=FILE node --import record-loads.mjs …
import { appendFileSync } from 'node:fs'
import { register } from 'node:module'
import { isMainThread } from 'node:worker_threads'

// Hooks run in a thread of their own, which loads this file too and must not register it again.
if (isMainThread) register(import.meta.url)

export function load(url, context, next) {
  appendFileSync(process.env.LOADS, `${url}\n`)
  return next(url, context)
}
