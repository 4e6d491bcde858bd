// Uses a service whose event listeners all throw. Prints as JSON the results of its calls, and the uncaught exceptions.
import diagnostics from 'node:diagnostics_channel'
import { memoryKeyStore } from '../../dist/adapters/memory.js'
import { EnvelopeCrypto, generateMasterKey, localMasterKey } from '../../dist/index.js'

const uncaught = []
process.on('uncaughtException', (error) => uncaught.push(error.message))
process.on('unhandledRejection', (error) => uncaught.push(`rejection: ${error.message}`))
diagnostics.subscribe('drizzle-keystore:minted', () => {
  throw new Error('channel')
})

const store = memoryKeyStore()
const masterKeys = localMasterKey(generateMasterKey())
const envelope = await EnvelopeCrypto.open({
  store,
  masterKeys,
  onEvent({ type }) {
    throw new Error(`onEvent ${type}`)
  },
})
const token = await envelope.encrypt('alice', 'x')
const { version } = await envelope.rotateUserKey('alice')
const plaintext = await envelope.decrypt('alice', token)
const { versions } = await envelope.shredUser('alice')
await envelope.close()
await new Promise((resolve) => setImmediate(resolve))
console.log(JSON.stringify({ version, plaintext, versions, uncaught }))
