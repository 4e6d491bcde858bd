// A program that cannot open its keystore, says why and whether the store is closed, and does nothing more: it must end by itself.
//
//   node open-with-wrong-key.mjs URL
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto, generateMasterKey, localMasterKey } from '../../dist/index.js'

const store = await openKeyStore(process.argv[2])
const masterKeys = localMasterKey(generateMasterKey())
const { code } = await EnvelopeCrypto.open({ store, masterKeys, format: 'v2' }).catch((error) => error)
const closed = await store.census().catch((error) => error)
console.log(code, closed.code === 'ERR_CLOSED')
