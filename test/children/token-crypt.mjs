// Encrypts or decrypts under a master key in a PKCS #11 token, as a process of its own. Prints the result as JSON.
//
//   node token-crypt.mjs URL MODULE encrypt|decrypt USER TEXT       with the PIN in TEST_PIN
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto } from '../../dist/index.js'
import { pkcs11MasterKey } from '../../dist/master-keys/kms/pkcs11.js'

const [url, module, command, userId, text] = process.argv.slice(2)
const masterKeys = pkcs11MasterKey({ module, token: 'acme', object: 'kek', pin: process.env.TEST_PIN })
const envelope = await EnvelopeCrypto.open({ store: await openKeyStore(url), masterKeys })
console.log(JSON.stringify(await envelope[command](userId, text)))
await envelope.close()
await masterKeys.close()
