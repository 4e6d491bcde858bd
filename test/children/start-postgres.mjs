// Starts a PostgreSQL server below a folder and says its URL; then it sends itself the signal that it is told.
import { createInterface } from 'node:readline'
import { startEmbeddedPostgres } from '../support/embedded-postgres.mjs'

const [, , parent] = process.argv
const { url } = await startEmbeddedPostgres({
  parents: [parent],
  initdbFlags: ['--no-sync'],
  otherServer: '',
})
console.log(url)
createInterface({ input: process.stdin }).on('line', (signal) => process.kill(process.pid, signal))
