// Moves all tenants to the previous master key and back to the primary, again and again. Prints "moved" after each move.
//
//   TENANTS=8 node move-tenants.mjs URL
import { openKeyStore } from '../../dist/adapters/open.js'
import { EnvelopeCrypto } from '../../dist/index.js'
import { testKeyring } from './test-keyring.mjs'

const [url] = process.argv.slice(2)
const store = await openKeyStore(url, { deadlineMs: 120_000 })
const masterKeys = testKeyring()
const envelope = await EnvelopeCrypto.open({ store, masterKeys })
for (let round = 0; ; round += 1) {
  const root = round % 2 === 0 ? masterKeys.previous[0] : masterKeys.primary
  for (let tenant = 0; tenant < Number(process.env.TENANTS); tenant += 1) {
    await envelope.moveTenant(`t${tenant}`, root)
    console.log('moved')
  }
}
