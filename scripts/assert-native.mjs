// Fails unless the built drizzle-keystore uses the native core that is linked: it loads, has the right interface, and passes the self-test.
// Without it tests of the native core are skipped, and all others pass in JavaScript.
import { cryptoCore } from '../dist/index.js'

const { name, reason } = cryptoCore()
if (name !== 'native') {
  console.error(`The native core is not used: ${reason}`)
  process.exitCode = 1
}
